"""The invariants find what is wrong: each kind of damage, done to a study that was right."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from tests.faults.invariants import Audit, audit
from tests.faults.ledger import Ledger
from tests.tuner.service.simulation import Trainer, submit
from tuner import service
from tuner.protocol import Report, ReportAnswer
from tuner.service import Context, utc_now
from tuner.storage import events
from tuner.storage.events import NewEvent
from tuner.storage.models import Measurement, Study, Trial

SPACE = {
    "optimizer": "adamw",
    "lr": {"type": "categorical", "choices": [1e-3, 1e-2]},
    "batch_size": {"type": "categorical", "choices": [16, 32]},
}


class Writing(Trainer):
    """A worker that keeps a ledger."""

    ledger: Ledger

    def deliver(self, report: Report) -> ReportAnswer:
        for slot in self.held.values():
            self.ledger.given([slot.leased])
        answer = super().deliver(report)
        self.ledger.answered(report, answer)
        return answer


@pytest.fixture
def ctx(database_url: str) -> Any:
    opened = Context.open(database_url)
    yield opened
    opened.close()


@pytest.fixture
def done(ctx: Context) -> tuple[int, Ledger]:
    """A study that ended as it should, and what its worker was told."""
    study = submit(
        ctx, space=SPACE, sampler="grid", budget={"trials": 4, "epochs": 3}, pruner="none"
    )
    worker = Writing(ctx, slots=2)
    worker.ledger = Ledger()
    worker.work()
    return study.id, worker.ledger


def found(ctx: Context, done: tuple[int, Ledger]) -> Audit:
    return audit(ctx.db, [done[0]], done[1])


def test_nothing_is_wrong_with_a_study_that_ended(ctx: Context, done: tuple[int, Ledger]) -> None:
    right = found(ctx, done)
    assert right == Audit(trials=4, promises=12)
    assert right.good


def _change(**values: Any) -> Callable[[Session, int], None]:
    def damage(session: Session, study_id: int) -> None:
        session.execute(
            update(Trial).where(Trial.study_id == study_id, Trial.number == 2).values(**values)
        )

    return damage


def _one_more(number: int, params: dict[str, Any]) -> Callable[[Session, int], None]:
    def damage(session: Session, study_id: int) -> None:
        columns = [one for one in Trial.__table__.columns if one.name != "id"]
        known = session.execute(select(*columns).where(Trial.study_id == study_id)).first()
        assert known is not None
        values = {**known._mapping, "number": number, "params": params}
        session.execute(insert(Trial).values(values))

    return damage


def _without_one(session: Session, study_id: int) -> None:
    session.execute(delete(Trial).where(Trial.study_id == study_id, Trial.number == 2))


def _unfinished(session: Session, study_id: int) -> None:
    session.execute(update(Study).where(Study.id == study_id).values(state="running"))


@pytest.mark.parametrize(
    ("damage", "kind", "word"),
    [
        (_change(state="fail", reason="lease_expired"), "lost", "fail (lease_expired)"),
        (_change(state="waiting"), "lost", "is waiting"),
        (_change(step=2), "lost", "step 2 of 3"),
        (_change(step=4), "duplicated", "step 4 of 3"),
        (_change(finished_at=None), "lost", "has no end"),
        (
            _change(
                state="running",
                lease_token="x",
                lease_expires_at=utc_now() + timedelta(seconds=9),
            ),
            "duplicated",
            "is held although",
        ),
        (_without_one, "lost", "no trial 2"),
        (_one_more(4, {"lr": 1.0}), "duplicated", "trial 4 beyond the budget"),
        (_one_more(5, {"lr": 1e-3, "batch_size": 16}), "duplicated", "2 times"),
        (_unfinished, "lost", "is running"),
    ],
)
def test_damaged_trials_are_found(
    ctx: Context,
    done: tuple[int, Ledger],
    damage: Callable[[Session, int], None],
    kind: str,
    word: str,
) -> None:
    with ctx.db.write() as session:
        damage(session, done[0])
    wrong = found(ctx, done)
    assert not wrong.good
    assert any(word in line for line in getattr(wrong, kind)), wrong


@pytest.mark.parametrize(
    ("told", "word"),
    [
        (("trial.leased", {"trials": [1]}), "held after its end"),
        (("trial.state", {"state": "complete"}), "ended twice"),
    ],
)
def test_a_history_that_cannot_be_is_found(
    ctx: Context, done: tuple[int, Ledger], told: tuple[str, dict[str, Any]], word: str
) -> None:
    kind, data = told
    event = NewEvent(kind, done[0], None if "trials" in data else 1, data=data)
    with ctx.db.write() as session:
        events.add(session, [event], None, utc_now())
    assert any(word in line for line in found(ctx, done).duplicated)


def test_two_holders_at_once_are_found(ctx: Context) -> None:
    study = submit(
        ctx, space=SPACE, sampler="grid", budget={"trials": 4, "epochs": 3}, pruner="none"
    )
    (leased,) = Trainer(ctx, slots=1).lease()
    event = NewEvent("trial.leased", study.id, data={"trials": [leased.trial_id]})
    with ctx.db.write() as session:
        events.add(session, [event], None, utc_now())
    wrong = audit(ctx.db, [study.id], Ledger())
    assert any("held by two" in line for line in wrong.duplicated)


@pytest.mark.parametrize("how", ["deleted", "changed", "of another attempt"])
def test_a_missing_point_is_found(ctx: Context, done: tuple[int, Ledger], how: str) -> None:
    trial = service.list_trials(ctx, done[0]).items[1].id
    mine = (Measurement.trial_id == trial, Measurement.step == 2)
    with ctx.db.write() as session:
        if how == "deleted":
            session.execute(delete(Measurement).where(*mine))
        elif how == "changed":
            session.execute(update(Measurement).where(*mine).values(metrics={"val_loss": 0.0}))
        else:
            session.execute(update(Measurement).where(*mine).values(attempt=7))
    (line,) = found(ctx, done).missing
    assert line.startswith(f"trial {trial}, attempt 1, step 2: acknowledged")
