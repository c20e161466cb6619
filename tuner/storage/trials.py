"""Trials: rows read and written many at a time, without a unit of work in between."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from optuna.distributions import distribution_to_json
from sqlalchemy import (
    Row,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    case,
    insert,
    select,
    update,
)
from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.storage.models import FINISHED_STUDY_STATES, FINISHED_TRIAL_STATES, Study, Trial

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
    "reason",
    "revision",
    "device_seconds",
    "started_at",
    "finished_at",
)
COLUMNS = [getattr(Trial, name) for name in (*FIXED, *MOVING)]


@dataclass(slots=True)
class TrialRow:
    """A trial in hand: change it, then :func:`save` it. Only what moves is written back."""

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
    reason: str | None = None
    revision: int = 0
    device_seconds: float = 0.0
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def finished(self) -> bool:
        """Whether it never changes again."""
        return self.state in FINISHED_TRIAL_STATES

    @property
    def busy(self) -> bool:
        """Whether somebody has it, or it was handed out and waits for somebody."""
        if self.state == "waiting":
            return self.until > self.step
        return self.state == "running" and not self.paused

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
        """Its last change."""
        self.release()
        self.state, self.paused, self.reason, self.finished_at = state, False, reason, now


@dataclass(frozen=True)
class NewTrial:
    """A trial about to be stored, before the database has given it an id."""

    number: int
    params: Mapping[str, Any]
    distributions: Mapping[str, Any]
    seed: int
    origin: str
    until: int = 0
    note: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] | None = None
    step: int = 0
    reason: str | None = None


def _row(row: Row[Any]) -> TrialRow:
    return TrialRow(*list(row))


def get(session: Session, trial_id: int) -> TrialRow:
    """One trial.

    Raises:
        NotFound: It is not there.
    """
    row = session.execute(select(*COLUMNS).where(Trial.id == trial_id)).first()
    if row is None:
        raise NotFound("trial", trial_id)
    return _row(row)


# Built once: on the path of every report, building a statement costs more than running it.
_IDS = _table.c.id.in_(bindparam("ids", expanding=True))
_STUDY_IDS = select(_table.c.id, _table.c.study_id).where(_IDS)
_LOCK = (
    select(*[_table.c[name] for name in (*FIXED, *MOVING)])
    .where(_IDS)
    .order_by(_table.c.id)
    .with_for_update()
)


def study_ids(session: Session, trial_ids: Collection[int]) -> dict[int, int]:
    """Which study each trial belongs to; trials that are gone are left out."""
    rows = session.connection().execute(_STUDY_IDS, {"ids": list(trial_ids)})
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


def lock(session: Session, trial_ids: Collection[int]) -> dict[int, TrialRow]:
    """Locks rows until the transaction ends, in the order of their ids."""
    rows = session.connection().execute(_LOCK, {"ids": list(trial_ids)})
    return {row.id: _row(row) for row in rows}


def select_rows(session: Session, query: Select[Any]) -> list[TrialRow]:
    """The rows of ``select(*COLUMNS)`` with conditions of the caller's."""
    return [_row(row) for row in session.execute(query)]


def of_study(
    session: Session, study_id: int, *, states: Collection[str] | None = None, lock: bool = False
) -> list[TrialRow]:
    """A study's trials by number, those in ``states`` or all."""
    query = select(*COLUMNS).where(Trial.study_id == study_id).order_by(Trial.id)
    if states is not None:
        query = query.where(Trial.state.in_(states))
    return select_rows(session, query.with_for_update() if lock else query)


def by_ids(session: Session, trial_ids: Collection[int]) -> dict[int, TrialRow]:
    """Trials by id; those that are gone are left out."""
    if not trial_ids:
        return {}
    rows = select_rows(session, select(*COLUMNS).where(Trial.id.in_(list(trial_ids))))
    return {row.id: row for row in rows}


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


@dataclass(frozen=True)
class Brief:
    """What a curve's caption says of its trial."""

    id: int
    number: int
    state: str
    paused: bool


def brief(
    session: Session,
    study_id: int,
    *,
    numbers: Collection[int] | None = None,
    most: int = 300,
    direction: str = "minimize",
) -> list[Brief]:
    """The trials of these numbers; or those that run, then the best, then the newest others."""
    query = select(Trial.id, Trial.number, Trial.state, Trial.paused).where(
        Trial.study_id == study_id
    )
    if numbers is not None:
        query = query.where(Trial.number.in_(numbers))
    else:
        value = Trial.values[0].as_float()
        place = case((and_(Trial.state == "running", ~Trial.paused), 0), else_=1)
        done = case((Trial.state == "complete", 0), (Trial.state == "waiting", 2), else_=1)
        good = case(
            (Trial.state == "complete", -value if direction == "maximize" else value),
            else_=0.0,
        )
        query = query.order_by(place, done, good, Trial.number.desc()).limit(most)
    return [Brief(i, n, state, paused) for i, n, state, paused in session.execute(query)]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a picture of all trials wants of one."""

    id: int
    number: int
    state: str
    values: list[Any] | None
    params: dict[str, Any]
    constraint: float | None


def finished(session: Session, study_id: int) -> list[Finished]:
    """A study's finished trials by number, in few columns."""
    rows = session.execute(
        select(Trial.id, Trial.number, Trial.state, Trial.values, Trial.params, Trial.constraint)
        .where(Trial.study_id == study_id, Trial.state.in_(FINISHED_TRIAL_STATES))
        .order_by(Trial.number)
    )
    return [Finished(*row) for row in rows]


def distributions(session: Session, study_id: int) -> dict[int, dict[str, str]]:
    """Each trial's distributions, as Optuna writes them."""
    rows = session.execute(select(Trial.id, Trial.distributions).where(Trial.study_id == study_id))
    return {trial_id: written for trial_id, written in rows}  # noqa: C416  (rows are no pairs)


def changed(session: Session, study_id: int, since: int) -> list[TrialRow]:
    """What changed after revision ``since``."""
    return select_rows(
        session,
        select(*COLUMNS)
        .where(Trial.study_id == study_id, Trial.revision > since)
        .order_by(Trial.number),
    )


def numbered(session: Session, study_id: int, numbers: Collection[int]) -> list[TrialRow]:
    """The trials of these numbers, locked."""
    return select_rows(
        session,
        select(*COLUMNS)
        .where(Trial.study_id == study_id, Trial.number.in_(numbers))
        .order_by(Trial.id)
        .with_for_update(),
    )


def add(
    session: Session,
    study_id: int,
    new: Sequence[NewTrial],
    *,
    revision: int,
    now: datetime,
    lease: tuple[int | None, str, datetime] | None = None,
) -> list[TrialRow]:
    """Stores new trials in one statement, waiting or, with ``lease``, already held.

    Args:
        session: Where to write.
        study_id: Their study, whose lock the caller holds.
        new: In the order of their numbers.
        revision: The study's, after this change.
        now: When they are created.
        lease: Holder, token and expiry.
    """
    if not new:
        return []
    worker_id, token, expires_at = lease or (None, None, None)
    made = [
        TrialRow(
            id=0,
            study_id=study_id,
            number=trial.number,
            params=dict(trial.params),
            seed=trial.seed,
            origin=trial.origin,
            note=dict(trial.note),
            created_at=now,
            state="waiting" if lease is None else "running",
            worker_id=worker_id,
            lease_token=token,
            lease_expires_at=expires_at,
            step=trial.step,
            until=trial.until,
            checkpoint=None if trial.checkpoint is None else dict(trial.checkpoint),
            reason=trial.reason,
            revision=revision,
            started_at=None if lease is None else now,
        )
        for trial in new
    ]
    written: dict[int, str] = {}
    rows = []
    for row, trial in zip(made, new, strict=True):
        values = {name: getattr(row, name) for name in (*FIXED[1:], *MOVING)}
        values["distributions"] = {
            name: _written(trial.distributions[name], written) for name in trial.params
        }
        rows.append(values)
    ids = {number: i for i, number in session.connection().execute(_INSERT, rows)}
    for row in made:
        row.id = ids[row.number]
    return made


# Matched by number, as asking for the ids in order would insert one row at a time on SQLite.
_INSERT = insert(_table).returning(_table.c.id, _table.c.number)


def _written(distribution: Any, written: dict[int, str]) -> str:
    key = id(distribution)
    if key not in written:
        written[key] = distribution_to_json(distribution)
    return written[key]


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


def _save(columns: Sequence[str]) -> Update:
    return (
        update(_table)
        .where(_table.c.id == bindparam("row_id"))
        .values({name: bindparam(f"new_{name}") for name in columns})
    )


_SAVE_ALL, _SAVE_GOING = _save(MOVING), _save(GOING)


def save(
    session: Session,
    rows: Iterable[TrialRow],
    revision: int,
    going: Collection[int] = (),
) -> None:
    """Writes back what moved, in one batch each for rows that changed hands and rows that went on.

    Args:
        session: Where to write.
        rows: The trials, whose study's lock the caller holds.
        revision: The study's, after this change.
        going: Ids of those of which only ``GOING`` has changed.
    """
    whole: list[dict[str, Any]] = []
    part: list[dict[str, Any]] = []
    for row in rows:
        row.revision = revision
        columns, batch = (GOING, part) if row.id in going else (MOVING, whole)
        values: dict[str, Any] = {f"new_{name}": getattr(row, name) for name in columns}
        values["row_id"] = row.id
        batch.append(values)
    if whole:
        session.connection().execute(_SAVE_ALL, whole)
    if part:
        session.connection().execute(_SAVE_GOING, part)


@dataclass(frozen=True)
class Saved:
    """A trial's last checkpoint."""

    trial_id: int
    study_id: int
    number: int
    uri: str


def saved(session: Session, query: Select[Any]) -> list[Saved]:
    """The checkpoints of ``select(Trial.id, ...)`` as :data:`SAVED` begins it."""
    return [
        Saved(trial_id, study_id, number, str(checkpoint["uri"]))
        for trial_id, study_id, number, checkpoint in session.execute(query)
    ]


SAVED = select(Trial.id, Trial.study_id, Trial.number, Trial.checkpoint).where(
    Trial.checkpoint.is_not(None)
)


def saved_in_vain(session: Session, since: datetime | None, limit: int) -> list[Saved]:
    """Checkpoints in studies that have ended (since a moment), some at a time."""
    query = SAVED.join(Study, Study.id == Trial.study_id).where(
        Study.state.in_(FINISHED_STUDY_STATES), Trial.state.in_(FINISHED_TRIAL_STATES)
    )
    if since is not None:
        query = query.where(Study.finished_at >= since)
    return saved(session, query.order_by(Trial.id).limit(limit))


def saved_of(session: Session, study_id: int) -> list[Saved]:
    """The checkpoints of one study's trials."""
    return saved(session, SAVED.where(Trial.study_id == study_id))


def forget_saved(session: Session, trial_ids: Collection[int]) -> None:
    """Their checkpoints are gone. No new revision: nobody outside sees where they were."""
    session.execute(
        update(Trial)
        .where(Trial.id.in_(trial_ids), Trial.state.in_(FINISHED_TRIAL_STATES))
        .values(checkpoint=None)
        .execution_options(synchronize_session=False)
    )
