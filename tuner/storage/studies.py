"""Studies: their rows, and the lock under which everything of a study changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Table, bindparam, exists, insert, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.storage.models import FINISHED_STUDY_STATES, Probe, Study, Trial
from tuner.storage.postgres import allow
from tuner.storage.prepared import Prepared

OPEN_STATES = ("queued", "running")
"""In these a study may start trials."""
REOPENED_STATES = ("completed", "failed")
"""Ends from which a study goes on when there is more to do; who cancelled one meant it."""
DELETING_SECONDS = 600.0
"""How long it may take to delete a study, with millions of points."""


@dataclass(slots=True)
class StudyRow:
    """A study in hand; see :class:`tuner.storage.models.Study`. A turn writes back what moves."""

    id: int
    name: str
    state: str
    spec: dict[str, Any]
    directions: list[str]
    owner: str | None
    tags: list[str]
    priority: int
    max_concurrent: int | None
    created_at: datetime
    revision: int = 0
    next_number: int = 0
    device_seconds: float = 0.0
    active_seconds: float = 0.0
    active_since: datetime | None = None
    reason: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    lr_range: dict[str, Any] | None = None

    @property
    def probing(self) -> bool:
        """Whether its range of learning rates is still to be measured, so that no trial starts."""
        return bool(self.spec.get("range_test")) and self.lr_range is None

    @property
    def over(self) -> bool:
        """Whether it has ended, and so have its trials."""
        return self.state in FINISHED_STUDY_STATES


MOVING = (
    "state",
    "revision",
    "next_number",
    "device_seconds",
    "active_seconds",
    "active_since",
    "reason",
    "started_at",
    "finished_at",
)
"""What changes as a study goes on; the rest changes only when a user says so."""

_table = cast("Table", Study.__table__)
COLUMNS = [_table.c[field.name] for field in fields(StudyRow)]
_GET = Prepared(select(*COLUMNS).where(_table.c.id == bindparam("study_id")))
_LOCK, _LOCK_NOW = (
    Prepared(
        select(_table.c.revision)
        .where(_table.c.id == bindparam("study_id"))
        .with_for_update(nowait=nowait)
    )
    for nowait in (False, True)
)


def find(session: Session, study_id: int) -> StudyRow | None:
    """One study, if it is there."""
    return _find(session.connection(), study_id)


def get(session: Session, study_id: int) -> StudyRow:
    """One study.

    Raises:
        NotFound: It is not there.
    """
    found = find(session, study_id)
    if found is None:
        raise NotFound("study", study_id)
    return found


def by_name(session: Session, name: str) -> StudyRow | None:
    """The study of that name."""
    row = session.execute(select(*COLUMNS).where(_table.c.name == name)).first()
    return None if row is None else StudyRow(*row)


def lock(
    connection: Connection, study_id: int, known: StudyRow | None = None, *, wait: bool = True
) -> StudyRow | None:
    """Locks a study until the transaction ends; None where it is gone.

    Everything that changes a study or its trials holds this lock, and counts its revision up. So
    numbers and revisions have no gaps, and what was read at a revision holds as long as that is
    the present one. Whoever locks several does it in the order of their ids.

    Args:
        connection: The transaction.
        study_id: Which study.
        known: As it was read before; returned as it is when it still holds.
        wait: Whether to wait for whoever has it locked now.
    """
    rows = (_LOCK if wait else _LOCK_NOW).rows(connection, {"study_id": study_id})
    if rows and known is not None and known.revision == rows[0][0]:
        return known
    return _find(connection, study_id) if rows else None


def _find(connection: Connection, study_id: int) -> StudyRow | None:
    rows = _GET.rows(connection, {"study_id": study_id})
    return StudyRow(*rows[0]) if rows else None


def add(session: Session, study: Mapping[str, Any]) -> int:
    """Stores a new study from its columns and says its id."""
    return session.execute(insert(Study).values(**study).returning(Study.id)).scalar_one()


def amend(session: Session, study: StudyRow) -> None:
    """Writes back what does not move of a locked study: what a user, or a range test, changed."""
    session.execute(
        update(_table)
        .where(_table.c.id == study.id)
        .values(
            name=study.name,
            spec=study.spec,
            tags=study.tags,
            priority=study.priority,
            max_concurrent=study.max_concurrent,
            lr_range=study.lr_range,
        )
    )


def delete(session: Session, study_id: int) -> None:
    """Deletes a study; the database deletes its trials and their points with it."""
    allow(session.connection(), DELETING_SECONDS)
    session.execute(sql_delete(_table).where(_table.c.id == study_id))


def states(session: Session, wanted: Iterable[str]) -> list[tuple[int, str, int]]:
    """Id, state and revision of the studies in these states."""
    rows = session.execute(
        select(Study.id, Study.state, Study.revision)
        .where(Study.state.in_(tuple(wanted)))
        .order_by(Study.id)
    )
    return [(row.id, row.state, row.revision) for row in rows]


def left_alone(session: Session) -> list[int]:
    """The studies whose clock runs though nobody holds a trial, or the range test, of theirs."""
    held = [
        exists().where(
            one.study_id == Study.id, one.state == "running", one.lease_token.is_not(None)
        )
        for one in (Trial, Probe)
    ]
    query = select(Study.id).where(
        Study.state == "running", Study.active_since.is_not(None), ~or_(*held)
    )
    return list(session.scalars(query.order_by(Study.id)))


def revisions(session: Session, study_ids: Collection[int]) -> dict[int, tuple[int, list[str]]]:
    """Revision and directions of these studies; those that are gone are left out."""
    rows = session.execute(
        select(Study.id, Study.revision, Study.directions).where(Study.id.in_(study_ids))
    )
    return {row.id: (row.revision, row.directions) for row in rows}


def open_specs(session: Session) -> list[tuple[str, dict[str, Any]]]:
    """Name and study file of every study that is not over."""
    rows = session.execute(
        select(Study.name, Study.spec)
        .where(Study.state.not_in(FINISHED_STUDY_STATES))
        .order_by(Study.id)
    )
    return [(name, spec) for name, spec in rows]
