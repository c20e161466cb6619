"""Events: what happened, in the order in which it became true."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, func, insert, select
from sqlalchemy.orm import Session

from tuner.storage.engine import COMMITTED
from tuner.storage.models import Event

log = logging.getLogger(__name__)

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
    session.info.setdefault(COMMITTED, []).append(lambda: log_all(events, actor))
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


def log_all(events: Sequence[NewEvent], actor: str | None) -> None:
    """Logs what has happened, with the ids of what it happened to.

    What every round of every trial brings is for dashboards, not for a log.
    """
    for event in events:
        level = level_of(event)
        if not log.isEnabledFor(level):
            continue
        ids = {
            "study": event.study_id,
            "trial": event.trial_id,
            "worker": event.worker_id,
            "actor": actor,
        }
        said = " ".join(f"{key}={value}" for key, value in event.data.items() if value is not None)
        fields = {key: value for key, value in ids.items() if value is not None}
        line = f"{event.kind} {said}".rstrip()
        log.log(level, "%s", line, extra={"event": event.kind, **fields})


def level_of(event: NewEvent) -> int:
    """How much a log should make of an event."""
    if event.kind in ("trial.measured", "trial.leased", "trial.created"):
        return logging.DEBUG
    if event.kind == "trial.state":
        if "cause" in event.data:
            return logging.WARNING
        failed = event.data.get("state") == "fail" and event.data.get("reason") != "cancelled"
        return logging.INFO if failed else logging.DEBUG
    return logging.WARNING if event.data.get("state") == "failed" else logging.INFO


def after(session: Session, last_id: int, study_id: int | None, limit: int) -> list[Event]:
    """Events with a higher id, of one study or of all."""
    query = select(Event).where(Event.id > last_id)
    if study_id is not None:
        query = query.where(Event.study_id == study_id)
    return list(session.scalars(query.order_by(Event.id).limit(limit)))


def before(session: Session, first_id: int | None, limit: int) -> list[Event]:
    """Events with a lower id, of everything, the newest first."""
    query = select(Event)
    if first_id is not None:
        query = query.where(Event.id < first_id)
    return list(session.scalars(query.order_by(Event.id.desc()).limit(limit)))


def newest(session: Session, study_id: int | None = None) -> int:
    """The id of the last event, 0 where there is none."""
    query = select(func.max(Event.id))
    if study_id is not None:
        query = query.where(Event.study_id == study_id)
    return session.scalar(query) or 0
