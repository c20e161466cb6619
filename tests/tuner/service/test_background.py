"""Jobs that run again and again: what fails is tried again; what hangs is told of, and left."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from tests.installation import until
from tuner.errors import Unavailable
from tuner.service import background
from tuner.service.background import Repeated, running


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a job hangs at; it opens when the test ends."""
    made = threading.Event()
    yield made
    made.set()


def test_a_job_that_fails_is_called_again() -> None:
    calls = []

    def work() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise Unavailable("away")
        if len(calls) == 2:
            raise RuntimeError

    job = Repeated("chore", work, 0.01)
    with running(job):
        assert job.done_at is None
        until(lambda: job.done_at, "a call to end well")
    assert len(calls) >= 3
    assert job.stuck_seconds == 0


def test_a_call_that_does_not_come_back_is_told_of_once_and_so_is_its_return(
    gate: threading.Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "LOOK_SECONDS", 0.01)
    job = Repeated("chore", gate.wait, 0.01, limit_seconds=0.2)
    other = Repeated("other", lambda: None, 0.01)

    def told() -> list[str]:
        return [r.getMessage().partition(" for ")[0] for r in caplog.records]

    with caplog.at_level(logging.INFO), running(job, other):
        until(lambda: job.stuck_seconds, "the call to be stuck")
        assert job.done_at is None
        until(told, "a line in the log")
        time.sleep(0.2)
        assert told() == ["chore has not come back"]
        assert other.stuck_seconds == 0
        gate.set()
        until(lambda: job.done_at, "the call to come back")
        assert job.stuck_seconds == 0
    assert "has come back after" in caplog.records[1].getMessage()


def test_jobs_that_hang_have_one_time_to_end_together(
    gate: threading.Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "END_SECONDS", 0.3)
    entered = threading.Semaphore(0)
    deadlines = []
    wait = Repeated.wait

    def waited(job: Repeated, deadline: float) -> None:
        deadlines.append(deadline)
        wait(job, deadline)

    monkeypatch.setattr(Repeated, "wait", waited)

    def hang() -> None:
        entered.release()
        gate.wait()

    with running(*(Repeated(f"chore {i}", hang, 0.01) for i in range(5))):
        for _ in range(5):
            assert entered.acquire(timeout=300)
    assert len(deadlines) > 5
    assert len(set(deadlines)) == 1
    assert sum("left behind" in record.getMessage() for record in caplog.records) == 5
