"""Events: what happened, in the order in which it became true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, func, insert, select
from sqlalchemy.orm import Session

from tuner.storage.models import Event

ORDER_LOCK = 0x74756E6572
"""The advisory lock that puts commits with events in order on PostgreSQL."""


_INSERT = insert(cast("Table", Event.__table__))


@dataclass(frozen=True)
class NewEvent:
    """One change, before it is stored."""

    kind: str
    study_id: int | None = None
    trial_id: int | None = None
    worker_id: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


def add(session: Session, events: Sequence[NewEvent], actor: str | None, now: datetime) -> None:
    """Stores what one transaction changed; call it last.

    A reader asks for events after the last id it saw, so ids must become visible in their order.
    SQLite has one writer at a time; on PostgreSQL a lock from here to the commit does the same.
    """
    if not events:
        return
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(ORDER_LOCK)))
    session.connection().execute(
        _INSERT,
        [
            {
                "kind": e.kind,
                "study_id": e.study_id,
                "trial_id": e.trial_id,
                "worker_id": e.worker_id,
                "data": e.data,
                "actor": actor,
                "created_at": now,
            }
            for e in events
        ],
    )


def after(session: Session, last_id: int, study_id: int | None, limit: int) -> list[Event]:
    """Events with a higher id, of one study or of all."""
    query = select(Event).where(Event.id > last_id)
    if study_id is not None:
        query = query.where(Event.study_id == study_id)
    return list(session.scalars(query.order_by(Event.id).limit(limit)))


def newest(session: Session, study_id: int | None = None) -> int:
    """The id of the last event, 0 where there is none."""
    query = select(func.max(Event.id))
    if study_id is not None:
        query = query.where(Event.study_id == study_id)
    return session.scalar(query) or 0
