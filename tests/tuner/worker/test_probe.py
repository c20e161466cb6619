"""Range tests on a real worker: measured, interrupted, failed, and taken over from the dead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuner.tasks import zoo
from tests.tuner.worker.test_loop import trials, work_until
from tuner import service, tasks
from tuner.advisor.range_test import SEEDS, STEPS
from tuner.errors import Unavailable
from tuner.protocol import LeaseAnswer, LeaseRequest, Probe
from tuner.service import Context, StudyView, utc_now
from tuner.spec import StudySpec
from tuner.storage import migrate
from tuner.training.checkpoint import CheckpointStore
from tuner.worker.crew import Crew
from tuner.worker.direct import DirectGateway
from tuner.worker.local import run_study
from tuner.worker.loop import run_worker
from tuner.worker.probe import run_probe


class Clock:
    """The real time, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def context(tmp_path: Path, clock: Clock) -> Iterator[Context]:
    url = f"sqlite:///{tmp_path}/tuner.sqlite"
    migrate.prepare(url)
    ctx = Context.open(url, now=clock)
    yield ctx
    ctx.close()


def submit(ctx: Context, **changes: Any) -> StudyView:
    """A study of one architecture, so that its workers have one program to record."""
    raw = {
        "name": "auto",
        "task": "digits",
        "space": {"lr": {"type": "float", "low": 1e-6, "high": 10.0, "log": True}},
        "range_test": True,
        "budget": {"trials": 4, "epochs": 1},
    }
    return service.submit(ctx, StudySpec.parse({**raw, **changes}))


def probe(**changes: Any) -> Probe:
    config = {"optimizer": "adamw", "batch_size": 32}
    fields = {"study_id": 1, "token": "t", "task": "digits", "config": config, "low": 1e-7}
    return Probe(**{**fields, "high": 10.0, "steps": 60, "seeds": 2, **changes})


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    return Crew(torch.device("cpu"), 4, CheckpointStore(tmp_path))


def test_a_study_is_searched_where_its_worker_measured(context: Context, tmp_path: Path) -> None:
    study = submit(context)
    work_until(context, study.id, home=tmp_path)
    after = service.show_study(context, study.id)
    assert after.state == "completed"
    assert after.range_test is not None
    assert after.range_test.state == "measured"
    assert after.range_test.seconds is not None
    assert after.range_test.seconds > 0
    low, high = after.range_test.low, after.range_test.high
    assert low is not None
    assert high is not None
    assert 1e-5 < low < 1e-3 < high < 1.0
    everyone = trials(context, study.id)
    assert len(everyone) == 4
    assert all(low <= trial.params["lr"] <= high for trial in everyone)
    kept = service.show_range(context, study.id)
    assert len(kept.loss) == STEPS


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # as in test_loop
def test_without_a_server_too(context: Context, tmp_path: Path) -> None:
    study = submit(context, name="local")
    run_study(context, study.id, device="cpu", home=tmp_path, processes=2)
    after = service.show_study(context, study.id)
    assert (after.state, after.counts.total) == ("completed", 4)
    assert after.range_test is not None
    assert after.range_test.state == "measured"


def test_a_stopped_worker_hands_it_back_and_another_goes_on(
    context: Context, tmp_path: Path
) -> None:
    study = submit(context)
    stop = threading.Event()

    class Stopping(DirectGateway):
        def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
            answer = super().lease(worker_id, request)
            assert answer.probe is not None
            stop.set()  # before the first step
            return answer

    run_worker(Stopping(context), name="first", device="cpu", home=tmp_path, stop=stop)
    waiting = service.show_study(context, study.id).range_test
    assert waiting is not None
    assert (waiting.state, waiting.attempt) == ("waiting", 1)
    work_until(context, study.id, home=tmp_path)
    after = service.show_study(context, study.id).range_test
    assert after is not None
    assert (after.state, after.attempt) == ("measured", 1)


def test_a_worker_that_dies_with_it_loses_it_to_another(
    context: Context, clock: Clock, tmp_path: Path
) -> None:
    """The lease runs out by itself: nobody says that the first worker is gone."""
    context.settings = replace(context.settings, lease_seconds=5.0, heartbeat_seconds=1.0)
    study = submit(context)
    stop = threading.Event()

    class Dead(DirectGateway):
        def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
            super().lease(worker_id, request)
            stop.set()
            raise Unavailable("the answer never arrived")

        def heartbeat(self, *_: Any) -> Any:
            raise Unavailable("dead")

        def leave(self, worker_id: int) -> None:
            raise Unavailable("dead")

    run_worker(Dead(context), name="dead", device="cpu", home=tmp_path, stop=stop)
    clock.ahead += timedelta(seconds=context.settings.lease_seconds + 1)
    running = service.show_study(context, study.id).range_test
    assert running is not None
    assert running.state == "running"
    work_until(context, study.id, home=tmp_path)
    after = service.show_study(context, study.id).range_test
    assert after is not None
    assert (after.state, after.attempt) == ("measured", 2)


def test_what_is_dropped_is_handed_back_unfinished(crew: Crew) -> None:
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    said = run_probe(crew, probe(), interrupted)
    assert said.outcome == "returned"
    assert asked < 10
    assert not crew.populations


def test_a_task_that_breaks_fails_the_probe_and_not_the_worker(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_probe(crew, probe(task="no such task"), lambda: False).outcome == "failed"

    class Broken(zoo.MlpTask):
        name = "broken"

        def loss(self, *_: Any) -> Any:
            raise RuntimeError("cannot be computed")

    monkeypatch.setattr(tasks.registry, "_entries", {"broken": Broken})
    said = run_probe(crew, probe(task="broken"), lambda: False)
    assert said.outcome == "failed"
    assert said.reason is not None
    assert "cannot be computed" in said.reason
    assert not crew.lost


def test_memory_that_is_full_is_told_apart_from_errors(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tuner.training.steps.apply_", full)
    said = run_probe(crew, probe(), lambda: False)
    assert (said.outcome, said.reason) == ("failed", "oom")


def test_a_probe_that_breaks_the_device_ends_its_worker(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(zoo.MlpTask):
        name = "breaking"

        def loss(self, *_: Any) -> Any:
            raise torch.AcceleratorError("device-side assert triggered")

    monkeypatch.setattr(tasks.registry, "_entries", {"breaking": Breaking})
    assert run_probe(crew, probe(task="breaking"), lambda: False).outcome == "failed"
    assert "device-side assert" in crew.lost


def test_batch_norm_is_measured_with_whole_batches(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo.BatchNormTask, "ghost_batch_norm", False)
    monkeypatch.setattr(tasks.registry, "_entries", {"zoo": zoo.BatchNormTask})
    said = run_probe(crew, probe(task="zoo", config={"batch_size": 8}), lambda: False)
    assert said.outcome == "measured"
    assert [len(row) for row in said.losses] == [60, 60]
    assert said.seconds > 0


def test_a_wrong_config_is_a_failure(crew: Crew) -> None:
    said = run_probe(crew, probe(config={"batch_size": 0}), lambda: False)
    assert said.outcome == "failed"
    assert said.reason is not None
    assert "batch_size" in said.reason


def test_the_seeds_and_steps_are_those_that_the_service_expects(crew: Crew) -> None:
    said = run_probe(crew, probe(steps=STEPS, seeds=SEEDS), lambda: False)
    assert [len(row) for row in said.losses] == [STEPS] * SEEDS
