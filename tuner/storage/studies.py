"""Studies: the rows, their locks, and what is counted over their trials."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, and_, bindparam, case, func, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from tuner.errors import NotFound
from tuner.storage.measurements import NOT_NUMBERS
from tuner.storage.models import FINISHED_STUDY_STATES, Probe, Study, Trial

OPEN_STATES = ("queued", "running")
"""In these a study may start trials."""


@dataclass(frozen=True)
class Counts:
    """A study's trials by what becomes of them; ``running`` excludes those set aside."""

    waiting: int = 0
    running: int = 0
    paused: int = 0
    complete: int = 0
    pruned: int = 0
    fail: int = 0

    @property
    def finished(self) -> int:
        """Trials that never change again."""
        return self.complete + self.pruned + self.fail

    @property
    def total(self) -> int:
        """All of them."""
        return self.finished + self.waiting + self.running + self.paused


@dataclass(frozen=True)
class Queued:
    """A study that may want workers, as the order of service sees it."""

    id: int
    priority: int
    max_concurrent: int | None
    revision: int
    device_seconds: float
    active_seconds: float
    leased: int
    ready: int
    task: str
    probe: str | None = None
    """The state of its range test, if it has one."""


def get(session: Session, study_id: int) -> Study:
    """One study.

    Raises:
        NotFound: It is not there.
    """
    study = session.get(Study, study_id)
    if study is None:
        raise NotFound("study", study_id)
    return study


def by_name(session: Session, name: str) -> Study | None:
    """The study of that name."""
    return session.scalar(select(Study).where(Study.name == name))


# Built once: on the path of every report, building a statement costs more than running it.
_LOCK = (
    select(Study)
    .where(Study.id.in_(bindparam("ids", expanding=True)))
    .order_by(Study.id)
    .with_for_update()
    .execution_options(populate_existing=True)
)


def lock(session: Session, study_ids: Collection[int]) -> dict[int, Study]:
    """Locks rows until the transaction ends, always in the order of their ids.

    Everything that changes a study's trials holds this lock, so that numbers and revisions have no
    gaps and a search is told every change once. Studies that are gone are left out.
    """
    rows = session.scalars(_LOCK, {"ids": list(study_ids)})
    return {study.id: study for study in rows}


_table = cast("Table", Study.__table__)
_REVISE = (
    update(_table)
    .where(_table.c.id == bindparam("row_id"))
    .values(revision=bindparam("new_revision"))
)


def revise(session: Session, study: Study) -> None:
    """Counts the revision of a locked study up.

    Most reports change nothing else of a study, and a unit of work for one number costs more than
    the rest of what a report writes.
    """
    revision = study.revision + 1
    session.connection().execute(_REVISE, {"row_id": study.id, "new_revision": revision})
    set_committed_value(study, "revision", revision)


def locked(session: Session, study_id: int) -> Study:
    """One locked study.

    Raises:
        NotFound: It is not there.
    """
    found = lock(session, [study_id])
    if study_id not in found:
        raise NotFound("study", study_id)
    return found[study_id]


def add(session: Session, study: Study) -> int:
    """Stores a new study and says its id."""
    session.add(study)
    session.flush()
    return study.id


def states(session: Session, wanted: Iterable[str]) -> list[tuple[int, str, int]]:
    """Id, state and revision of the studies in these states."""
    rows = session.execute(
        select(Study.id, Study.state, Study.revision)
        .where(Study.state.in_(tuple(wanted)))
        .order_by(Study.id)
    )
    return [(row.id, row.state, row.revision) for row in rows]


def open_specs(session: Session) -> list[tuple[str, dict[str, Any]]]:
    """Name and study file of every study that is not over."""
    rows = session.execute(
        select(Study.name, Study.spec)
        .where(Study.state.not_in(FINISHED_STUDY_STATES))
        .order_by(Study.id)
    )
    return [(name, spec) for name, spec in rows]


def queued(session: Session, tasks: Sequence[str], now: datetime) -> list[Queued]:
    """The open studies whose task is among ``tasks``, with what they hold and what waits."""
    leased = func.count(Trial.id).filter(Trial.state == "running", Trial.lease_token.is_not(None))
    ready = func.count(Trial.id).filter(Trial.state == "waiting", Trial.until > Trial.step)
    rows = session.execute(
        select(
            Study.id,
            Study.priority,
            Study.max_concurrent,
            Study.revision,
            Study.device_seconds,
            Study.active_seconds,
            Study.active_since,
            Study.spec[("task", "name")].as_string().label("task"),
            leased.label("leased"),
            ready.label("ready"),
            Probe.state.label("probe"),
        )
        .outerjoin(Probe, Probe.study_id == Study.id)
        .outerjoin(Trial, and_(Trial.study_id == Study.id, Trial.state.in_(("waiting", "running"))))
        .where(
            Study.state.in_(OPEN_STATES),
            Study.spec[("task", "name")].as_string().in_(tuple(tasks)),
        )
        .group_by(Study.id, Probe.state)
    )
    return [
        Queued(
            row.id,
            row.priority,
            row.max_concurrent,
            row.revision,
            row.device_seconds,
            row.active_seconds
            + (0.0 if row.active_since is None else (now - row.active_since).total_seconds()),
            row.leased,
            row.ready,
            row.task,
            row.probe,
        )
        for row in rows
    ]


def leased(session: Session, study_id: int) -> int:
    """How many of its trials are held under a lease now."""
    return (
        session.scalar(
            select(func.count())
            .select_from(Trial)
            .where(
                Trial.study_id == study_id,
                Trial.state == "running",
                Trial.lease_token.is_not(None),
            )
        )
        or 0
    )


def ready(session: Session, study_id: int) -> int:
    """How many of its trials wait for a worker now."""
    return (
        session.scalar(
            select(func.count())
            .select_from(Trial)
            .where(Trial.study_id == study_id, Trial.state == "waiting", Trial.until > Trial.step)
        )
        or 0
    )


def cancelled(session: Session, study_id: int) -> int:
    """How many of its trials ended before they began."""
    return (
        session.scalar(
            select(func.count())
            .select_from(Trial)
            .where(Trial.study_id == study_id, Trial.state == "fail", Trial.reason == "cancelled")
        )
        or 0
    )


def counts(session: Session, study_ids: Collection[int]) -> dict[int, Counts]:
    """The trials of each study by state; every id asked for is in the answer."""
    aside = func.sum(case((Trial.paused, 1), else_=0))
    found: dict[int, dict[str, int]] = {i: {} for i in study_ids}
    for study_id, state, n, paused in session.execute(
        select(Trial.study_id, Trial.state, func.count(), aside)
        .where(Trial.study_id.in_(study_ids))
        .group_by(Trial.study_id, Trial.state)
    ):
        found[study_id][state] = n - (paused if state == "running" else 0)
        if state == "running":
            found[study_id]["paused"] = paused
    return {i: Counts(**by_state) for i, by_state in found.items()}


def steps(session: Session, study_ids: Collection[int]) -> dict[int, int]:
    """Evaluation periods that each study's trials have behind them."""
    rows = session.execute(
        select(Trial.study_id, func.sum(Trial.step))
        .where(Trial.study_id.in_(study_ids))
        .group_by(Trial.study_id)
    )
    return {study_id: int(n or 0) for study_id, n in rows}


def delete(session: Session, study_id: int) -> None:
    """Deletes a study; the database deletes its trials and their points with it."""
    session.execute(
        sql_delete(Study).where(Study.id == study_id).execution_options(synchronize_session=False)
    )


def ranked(direction: str) -> list[ColumnElement[Any]]:
    """The order of trials by their first objective, the best first, ties by number."""
    value = Trial.values[0].as_float()
    return [value.desc() if direction == "maximize" else value, Trial.number]


def comparable() -> list[ColumnElement[bool]]:
    """Complete trials with a finite first objective that keep the study's constraint."""
    return [
        Trial.state == "complete",
        Trial.values.is_not(None),
        Trial.values[0].as_string().not_in(NOT_NUMBERS),
        or_(Trial.constraint.is_(None), Trial.constraint <= 0),
    ]


def best_ids(session: Session, studies: Iterable[Study]) -> dict[int, int]:
    """The id of each study's best trial, in one statement for each direction."""
    out: dict[int, int] = {}
    by_direction: dict[str, list[int]] = {}
    for study in studies:
        if len(study.directions) == 1:
            by_direction.setdefault(study.directions[0], []).append(study.id)
    for direction, ids in by_direction.items():
        place = func.row_number().over(partition_by=Trial.study_id, order_by=ranked(direction))
        inner = (
            select(Trial.id, Trial.study_id, place.label("place"))
            .where(Trial.study_id.in_(ids), *comparable())
            .subquery()
        )
        for row in session.execute(select(inner).where(inner.c.place == 1)):
            out[row.study_id] = row.id
    return out
