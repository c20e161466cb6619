"""What a watcher sees, from views made by the real service."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tuner import service
from tuner.cli import progress
from tuner.service import Context
from tuner.spec import StudySpec
from tuner.storage import migrate


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    url = f"sqlite:///{tmp_path}/t.sqlite"
    migrate.upgrade(url)
    opened = Context.open(url)
    yield opened
    opened.close()


@pytest.fixture
def study(context: Context) -> int:
    spec = {
        "name": "[bold]watched",
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "space": {"lr": {"type": "float", "low": 0.001, "high": 1.0}},
        "sampler": {"name": "random", "seed": 0},
        "pruner": {"name": "none"},
        "budget": {"trials": 3, "epochs": 1},
    }
    return service.submit(context, StudySpec.parse(spec)).id


def drawn(context: Context, study: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=100).print(progress.draw(service.show_study(context, study)))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_each_fact_has_a_line(context: Context, study: int) -> None:
    assert [line.split("  ")[0] for line in drawn(context, study)[2:]] == [
        "0 complete",
        "best so far: none yet",
        "– samples/s",
    ]
    (trial,) = service.ask(context, study)
    service.tell(context, trial.trial_id, trial.token, values=0.25)
    title, bar, facts, best, _ = drawn(context, study)
    assert title == "[bold]watched: running"
    assert bar
    assert facts.startswith("1 complete   0 pruned   0 running")
    assert best.startswith("best so far: 0.25  trial 0")


def test_a_range_test_is_said_to_come_first(context: Context) -> None:
    spec = StudySpec.parse({"name": "auto", "task": "digits", "space": "auto"})
    auto = service.submit(context, spec).id
    assert "which learning rates" in drawn(context, auto)[3]
    assert "which learning rates" in progress.line(service.show_study(context, auto))
    service.ask(context, auto)
    assert drawn(context, auto)[3] == "best so far: none yet"
    assert "best none" in progress.line(service.show_study(context, auto))


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_ends_with_the_study(
    context: Context, study: int, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "err", Console(file=stream, width=100, force_terminal=terminal))
    looks = 0

    def look() -> service.StudyView:
        nonlocal looks
        looks += 1
        for trial in service.ask(context, study, 1):
            service.tell(context, trial.trial_id, trial.token, values=float(looks))
        return service.show_study(context, study)

    ended = progress.watch(look, look_seconds=0.0)
    assert ended.state == "completed"
    assert looks == 3
    assert "3 complete" in stream.getvalue()
    assert ended.best is not None
    assert ended.best.value == 1.0
    assert ("trial 0" if terminal else "best 1") in stream.getvalue()


def test_watching_can_be_stopped(context: Context, study: int) -> None:
    stop = threading.Event()
    stop.set()
    view = progress.watch(lambda: service.show_study(context, study), stop=stop, quiet=True)
    assert view.state == "queued"
