"""The queue against a model of it in memory, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.databases import _postgres_database, _postgres_template, _sqlite_template
from tests.leftovers import prefix
from tests.tuner.queue.machine import Halving, Queue


@contextmanager
def sqlite() -> Iterator[str]:
    with TemporaryDirectory(prefix=f"{prefix('queue')}-") as folder:
        file = Path(folder) / "queue.sqlite"
        file.write_bytes(_sqlite_template())
        yield f"sqlite:///{file}"


def postgresql() -> AbstractContextManager[str]:
    return _postgres_database(_postgres_template())


@pytest.mark.parametrize(
    ("machine", "database", "examples"),
    [(Queue, sqlite, 10), (Halving, sqlite, 10), (Halving, postgresql, 3)],
)
def test_the_queue_agrees_with_its_model(
    monkeypatch: pytest.MonkeyPatch,
    machine: type[Queue],
    database: Callable[[], AbstractContextManager[str]],
    examples: int,
) -> None:
    monkeypatch.setattr(machine, "fresh_database", staticmethod(database), raising=False)
    run_state_machine_as_test(
        machine,
        settings=settings(
            deadline=None,
            derandomize=True,
            max_examples=examples,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
