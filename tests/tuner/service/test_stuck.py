"""A row that somebody locked and does not let go of holds up what changes it, and nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import psycopg
import pytest

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.errors import Locked
from tuner.protocol import Measured
from tuner.service import Asked, Context, StudyView, outbox, webhooks
from tuner.storage import postgres, studies, writing
from tuner.storage.direct import Direct
from tuner.webhooks import Outcome, Outgoing

pytestmark = pytest.mark.parametrize("dialect", ["postgresql"])

Hold = Callable[[StudyView], AbstractContextManager[None]]


@pytest.fixture
def ctx(database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """A service that waits a shorter time than usual; longer than anything takes that waits not."""
    monkeypatch.setattr(postgres, "LOCK_SECONDS", 2.0)
    opened = Context.open(database_url, now=clock)
    yield opened
    opened.close()


@pytest.fixture
def hold(database_url: str) -> Hold:
    """Locks a study from outside until the block ends."""

    @contextmanager
    def held(study: StudyView) -> Iterator[None]:
        with psycopg.connect(database_url.replace("+psycopg", "")) as other:
            other.execute("SELECT 1 FROM studies WHERE id = %s FOR UPDATE", [study.id])
            yield
            other.rollback()

    return held


@pytest.fixture
def waits(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Studies whose rows were waited for, rather than asked for."""
    found: list[int] = []
    lock, write = studies.lock, writing.write

    def locking(connection: object, study_id: int, *rest: object, wait: bool = True) -> object:
        if wait:
            found.append(study_id)
        return lock(connection, study_id, *rest, wait=wait)  # type: ignore[arg-type]

    def writing_now(connection: object, study: object, *rest: object, **named: object) -> object:
        if isinstance(connection, Direct):  # the write itself takes the lock
            found.append(study.id)  # type: ignore[attr-defined]
        return write(connection, study, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(studies, "lock", locking)
    monkeypatch.setattr(writing, "write", writing_now)
    return found


def report(ctx: Context, trial: Asked, step: int = 1) -> str:
    measured = Measured(step=step, metrics={"val_loss": 0.5})
    return service.report_trial(ctx, trial.trial_id, trial.token, measured).action


def test_it_is_waited_for_once_and_free_again_by_itself(
    ctx: Context, hold: Hold, waits: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    study = submit(ctx, name="a", budget={"trials": 100, "epochs": 9})
    trial = service.ask(ctx, study.id, 1)[0]
    waits.clear()
    with hold(study), caplog.at_level(logging.WARNING):
        for _ in range(20):
            with pytest.raises(Locked):
                report(ctx, trial)
        assert waits == [study.id]
        with pytest.raises(Locked):
            service.pause_study(ctx, study.id)
        assert waits == [study.id]
    assert report(ctx, trial) == "continue"
    told = [record.getMessage() for record in caplog.records if record.name.endswith("unit")]
    assert told == [
        "somebody keeps the study locked; what changes it is refused until it is free",
        "the study is no longer locked",
    ]
    waits.clear()
    assert report(ctx, trial, 2) == "continue"
    assert waits == [study.id], "what is free may be waited for again"


def test_those_who_wait_together_are_refused_together(
    ctx: Context, hold: Hold, waits: list[int]
) -> None:
    study = submit(ctx, name="a", budget={"trials": 100, "epochs": 9})
    trials = service.ask(ctx, study.id, 30)
    waits.clear()
    refused = []

    def call(trial: Asked) -> None:
        try:
            report(ctx, trial)
        except Locked:
            refused.append(trial.number)

    with hold(study):
        threads = [threading.Thread(target=call, args=(trial,)) for trial in trials]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(refused) == 30
    assert waits == [study.id]


def test_a_worker_is_given_trials_of_other_studies(ctx: Context, hold: Hold) -> None:
    first = submit(ctx, name="a", priority=9)
    second = submit(ctx, name="b")
    trainer = Trainer(ctx, slots=2)
    with hold(first):
        assert {leased.study_id for leased in trainer.lease()} == {second.id}


def test_a_worker_finds_nothing_where_all_is_locked(ctx: Context, hold: Hold) -> None:
    study = submit(ctx, name="a")
    trainer = Trainer(ctx, slots=2)
    with hold(study):
        trainer.lease()
        assert not trainer.held
    trainer.lease()
    assert len(trainer.held) == 2


def test_upkeep_waits_for_nobody_and_goes_on_with_other_studies(
    ctx: Context, clock: Clock, hold: Hold, waits: list[int]
) -> None:
    first, second = submit(ctx, name="a"), submit(ctx, name="b")
    trials = [service.ask(ctx, study.id, 1)[0] for study in (first, second)]
    for trial in trials:
        service.renew_trial(ctx, trial.trial_id, trial.token, lease_seconds=5.0)
    waits.clear()

    def rounds() -> list[str]:
        for _ in range(40):
            clock.advance(1.0)
            service.tick(ctx)
        return [service.show_trial(ctx, trial.trial_id).state for trial in trials]

    with hold(first):
        assert rounds() == ["running", "waiting"]
    assert waits == []
    assert rounds() == ["waiting", "waiting"]


def test_looking_ahead_goes_on_with_other_studies(ctx: Context, hold: Hold) -> None:
    first, second = submit(ctx, name="a"), submit(ctx, name="b")
    Trainer(ctx, slots=2)
    with hold(first):
        service.look_ahead(ctx)
        counts = [service.show_study(ctx, study.id).counts.waiting for study in (first, second)]
    assert counts == [0, 2]


def test_a_message_whose_end_cannot_be_noted_holds_up_no_other(
    ctx: Context, database_url: str
) -> None:
    webhooks.create_webhook(ctx, "chat", "https://93.184.216.34/", actor="root")
    for name in ("a", "b"):
        service.cancel_study(ctx, submit(ctx, name=name).id)
    first = threading.Lock()
    with psycopg.connect(database_url.replace("+psycopg", "")) as other:

        def send(message: Outgoing) -> Outcome:
            if first.acquire(blocking=False):
                query = "SELECT 1 FROM deliveries WHERE message = %s FOR UPDATE"
                other.execute(query, [message.message])
            return Outcome(200, None)

        with closing(outbox.Courier(ctx, send)) as courier:
            attempts = courier.deliver()
        ends = {type(attempt.exception()) for attempt in attempts}
        assert ends == {Locked, type(None)}
        other.rollback()
    states = sorted(delivery.state for delivery in webhooks.deliveries(ctx, "chat").items)
    assert states == ["delivered", "waiting"]
