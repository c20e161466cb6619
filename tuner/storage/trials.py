"""Trials: rows as the service has them in hand, and how they are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Select, Table, bindparam, select
from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.storage.measurements import Point
from tuner.storage.models import FINISHED_TRIAL_STATES, Trial
from tuner.storage.prepared import Prepared

_table = cast("Table", Trial.__table__)

FIXED = ("id", "study_id", "number", "params", "seed", "origin", "note", "created_at")
MOVING = (
    "state",
    "values",
    "constraint",
    "attempt",
    "worker_id",
    "lease_token",
    "lease_expires_at",
    "last_token",
    "paused",
    "step",
    "until",
    "checkpoint",
    "lost",
    "reason",
    "revision",
    "device_seconds",
    "started_at",
    "finished_at",
)
GOING = (
    "values",
    "constraint",
    "lease_expires_at",
    "step",
    "until",
    "checkpoint",
    "revision",
    "device_seconds",
)
"""What changes while a trial goes on under the same lease."""
COLUMNS = [_table.c[name] for name in (*FIXED, *MOVING)]


@dataclass(slots=True)
class TrialRow:
    """A trial in hand: change it within a turn, which writes back what moves.

    ``heard`` is its last point where this process knows it.
    """

    id: int
    study_id: int
    number: int
    params: dict[str, Any]
    seed: int
    origin: str
    note: dict[str, Any]
    created_at: datetime
    state: str = "waiting"
    values: list[Any] | None = None
    constraint: float | None = None
    attempt: int = 1
    worker_id: int | None = None
    lease_token: str | None = None
    lease_expires_at: datetime | None = None
    last_token: str | None = None
    paused: bool = False
    step: int = 0
    until: int = 0
    checkpoint: dict[str, Any] | None = None
    lost: dict[str, Any] | None = None
    reason: str | None = None
    revision: int = 0
    device_seconds: float = 0.0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    heard: Point | None = field(default=None, compare=False)

    @property
    def finished(self) -> bool:
        """Whether it never changes again."""
        return self.state in FINISHED_TRIAL_STATES

    @property
    def ready(self) -> bool:
        """Whether it waits for somebody to take it."""
        return self.state == "waiting" and self.until > self.step

    @property
    def busy(self) -> bool:
        """Whether somebody has it, or it was handed out and waits for somebody."""
        return self.ready or (self.state == "running" and not self.paused)

    def hold(self, worker_id: int | None, token: str, expires_at: datetime, now: datetime) -> None:
        """Gives it to a holder."""
        self.state, self.worker_id, self.paused = "running", worker_id, False
        self.lease_token, self.lease_expires_at = token, expires_at
        self.started_at = self.started_at or now

    def release(self) -> None:
        """Takes the lease away; who holds the old token can change nothing any more."""
        self.lease_token = self.lease_expires_at = None

    def wait(self) -> None:
        """Puts it back into the queue, with its checkpoint."""
        self.release()
        self.state, self.paused = "waiting", False

    def set_aside(self) -> None:
        """Pauses it: it keeps its checkpoint and nobody has it."""
        self.release()
        self.state, self.paused = "running", True

    def end(self, state: str, reason: str | None, now: datetime) -> None:
        """Its last change; one that failed has no values, whatever it came to before."""
        self.release()
        self.state, self.paused, self.reason, self.finished_at = state, False, reason, now
        if state == "fail":
            self.values = None


@dataclass(frozen=True)
class NewTrial:
    """A trial about to be stored, before the database has given it an id."""

    number: int
    params: Mapping[str, Any]
    distributions: Mapping[str, str]
    """Of each of its parameters, as Optuna writes them."""
    seed: int
    origin: str
    until: int = 0
    note: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] | None = None
    step: int = 0

    def row(self, study_id: int, now: datetime) -> TrialRow:
        """It in hand, waiting; its id is 0 until it is stored."""
        return TrialRow(
            id=0,
            study_id=study_id,
            number=self.number,
            params=dict(self.params),
            seed=self.seed,
            origin=self.origin,
            note=dict(self.note),
            created_at=now,
            step=self.step,
            until=self.until,
            checkpoint=None if self.checkpoint is None else dict(self.checkpoint),
        )


def get(session: Session, trial_id: int) -> TrialRow:
    """One trial.

    Raises:
        NotFound: It is not there.
    """
    row = session.execute(select(*COLUMNS).where(_table.c.id == trial_id)).first()
    if row is None:
        raise NotFound("trial", trial_id)
    return TrialRow(*row)


def study_ids(session: Session, trial_ids: Collection[int]) -> dict[int, int]:
    """Which study each trial belongs to; trials that are gone are left out."""
    rows = session.execute(select(_table.c.id, _table.c.study_id).where(_table.c.id.in_(trial_ids)))
    return {trial_id: study_id for trial_id, study_id in rows}  # noqa: C416  (rows are no pairs to dict)


def study_of(session: Session, trial_id: int) -> int:
    """The study of one trial.

    Raises:
        NotFound: It is not there.
    """
    found = study_ids(session, [trial_id])
    if trial_id not in found:
        raise NotFound("trial", trial_id)
    return found[trial_id]


def select_rows(session: Session, query: Select[Any]) -> list[TrialRow]:
    """The rows of ``select(*COLUMNS)`` with conditions of the caller's."""
    return [TrialRow(*row) for row in session.execute(query)]


def of_study(
    session: Session, study_id: int, *, states: Collection[str] | None = None
) -> list[TrialRow]:
    """A study's trials by number, those in ``states`` or all."""
    query = select(*COLUMNS).where(_table.c.study_id == study_id).order_by(_table.c.number)
    if states is not None:
        query = query.where(_table.c.state.in_(states))
    return select_rows(session, query)


def each_of_study(
    session: Session, study_id: int, *, states: Collection[str]
) -> Iterator[TrialRow]:
    """A study's trials in ``states`` by number, read only as far as somebody goes on."""
    query = select(*COLUMNS).where(_table.c.study_id == study_id, _table.c.state.in_(states))
    for row in session.connection().execute(query.order_by(_table.c.number)):
        yield TrialRow(*row)


def by_ids(session: Session, trial_ids: Collection[int]) -> dict[int, TrialRow]:
    """Trials by id; those that are gone are left out."""
    if not trial_ids:
        return {}
    rows = select_rows(session, select(*COLUMNS).where(_table.c.id.in_(trial_ids)))
    return {row.id: row for row in rows}


def by_numbers(session: Session, study_id: int, numbers: Collection[int]) -> dict[int, TrialRow]:
    """A study's trials by number; those that are not there are left out."""
    if not numbers:
        return {}
    query = select(*COLUMNS).where(_table.c.study_id == study_id, _table.c.number.in_(numbers))
    return {row.number: row for row in select_rows(session, query)}


def leased_ids(session: Session, study_id: int) -> list[int]:
    """The trials of a study that somebody holds."""
    return list(
        session.scalars(
            select(Trial.id).where(
                Trial.study_id == study_id,
                Trial.state == "running",
                Trial.lease_token.is_not(None),
            )
        )
    )


_CHANGED = Prepared(
    select(*COLUMNS)
    .where(_table.c.study_id == bindparam("of_study"), _table.c.revision > bindparam("since"))
    .order_by(_table.c.number)
)


def changed(session: Session, study_id: int, since: int) -> list[TrialRow]:
    """A study's trials that changed after revision ``since``, by number."""
    given = {"of_study": study_id, "since": since}
    return [TrialRow(*row) for row in _CHANGED.rows(session.connection(), given)]
