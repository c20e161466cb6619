"""What is counted over everything, for those who watch the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from tuner.storage import webhooks
from tuner.storage.models import STUDY_STATES, TRIAL_STATES, WORKER_STATES, Study, Trial, Worker
from tuner.storage.studies import OPEN_STATES


@dataclass(frozen=True)
class Gauges:
    """One reading.

    Attributes:
        studies: By state.
        trials: By state; ``paused`` apart from ``running``.
        queue_depth: Trials that wait for a worker now.
        leases: Trials held now, by who holds them: a ``worker``, or a user's own ``loop``.
        workers: By state.
        slots: Trials that the workers that are present can hold.
        samples_per_second: What these workers train together.
        undelivered: Messages to webhooks that wait.
    """

    studies: Mapping[str, int]
    trials: Mapping[str, int]
    queue_depth: int
    leases: Mapping[str, int]
    workers: Mapping[str, int]
    slots: int
    samples_per_second: float
    undelivered: int


def read(session: Session) -> Gauges:
    """Reads all of it, in a few statements whatever there is."""
    present = session.execute(select(Worker.slots, Worker.status).where(Worker.state != "gone"))
    slots, rates = 0, []
    for most, status in present:
        slots += most
        rates.append(status.get("samples_per_second"))
    waits = select(func.count()).select_from(Trial).join(Study, Study.id == Trial.study_id)
    waits = waits.where(
        Study.state.in_(OPEN_STATES), Trial.state == "waiting", Trial.until > Trial.step
    )
    return Gauges(
        studies=_by_state(session, Study, STUDY_STATES),
        trials=_trials(session),
        queue_depth=session.scalar(waits) or 0,
        leases=_leases(session),
        workers=_by_state(session, Worker, WORKER_STATES),
        slots=slots,
        # A worker says what it likes of itself.
        samples_per_second=float(sum(r for r in rates if isinstance(r, int | float))),
        undelivered=webhooks.waiting(session),
    )


def _by_state(
    session: Session, kind: type[Study] | type[Worker], states: tuple[str, ...]
) -> dict[str, int]:
    found = dict.fromkeys(states, 0)
    for state, n in session.execute(select(kind.state, func.count()).group_by(kind.state)):
        found[state] = n
    return found


def _trials(session: Session) -> dict[str, int]:
    found = dict.fromkeys((*TRIAL_STATES, "paused"), 0)
    aside = func.sum(case((Trial.paused, 1), else_=0))
    for state, n, paused in session.execute(
        select(Trial.state, func.count(), aside).group_by(Trial.state)
    ):
        found[state] = n - paused
        found["paused"] += paused
    return found


def _leases(session: Session) -> dict[str, int]:
    mine = func.count(Trial.worker_id)  # counts those that are not NULL
    every, workers = session.execute(
        select(func.count(), mine).select_from(Trial).where(Trial.lease_expires_at.is_not(None))
    ).one()
    return {"worker": workers, "loop": every - workers}
