"""Events: what happened, in the order in which it became true."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    FromClause,
    Insert,
    Integer,
    Table,
    column,
    func,
    insert,
    select,
    true,
)
from sqlalchemy.orm import Session

from tuner.storage.engine import COMMITTED, dump_json
from tuner.storage.models import Event
from tuner.storage.prepared import Executing, GivenBy, Prepared, given_rows
from tuner.storage.trials import TrialRow

log = logging.getLogger(__name__)

ORDER_LOCK = 0x74756E6572
"""The advisory lock by which a reader on PostgreSQL waits for commits that are on their way."""

_table = cast("Table", Event.__table__)
_COLUMNS = ("study_id", "trial_id", "worker_id", "kind", "data", "actor", "created_at")


@dataclass(frozen=True)
class NewEvent:
    """One change, before it is stored."""

    kind: str
    study_id: int | None = None
    trial_id: int | None = None
    worker_id: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    of: Sequence[TrialRow] = ()
    """Trials whose ids and numbers are added to the data; new ones have no id before."""

    def told(self) -> dict[str, Any]:
        """All that is to be stored as data."""
        if not self.of:
            return self.data
        of = {"trials": [row.id for row in self.of], "numbers": [row.number for row in self.of]}
        return {**self.data, **of}


def add(session: Session, events: Sequence[NewEvent], actor: str | None, now: datetime) -> None:
    """Stores what one transaction changed; call it last.

    Ids are given in this order, and become visible when the transaction commits. Those of one study
    do so in order, because whoever tells of a study holds its lock; for those of all studies see
    :func:`settled`.
    """
    if events:
        log_once_committed(session, events, actor)
        store(session.connection(), events, actor, now)


def store(
    connection: Executing, events: Sequence[NewEvent], actor: str | None, now: datetime
) -> None:
    """The same without a word in the log."""
    rows = as_rows(events, actor, now)
    if connection.dialect.name == "postgresql":
        _ADD_GIVEN.run(connection, {"events": dump_json(rows)})
    else:
        ADD.run_many(connection, rows)


def settled(session: Session) -> int:
    """The id of the last event before which no other will appear, 0 where there is none.

    SQLite has one writer at a time. On PostgreSQL whoever stores events holds a lock from then to
    the commit, together with all others; a reader that wants events of all studies waits here for
    those under way. Call it in a transaction of its own, as new ones wait for its end.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(ORDER_LOCK)))
    return session.scalar(select(func.max(_table.c.id))) or 0


def between(session: Session, after: int, until: int, limit: int) -> list[Event]:
    """Events of all studies with a higher id than ``after``, up to ``until``."""
    query = select(Event).where(Event.id > after, Event.id <= until)
    return list(session.scalars(query.order_by(Event.id).limit(limit)))


def of_study(session: Session, study_id: int, after: int, limit: int) -> list[Event]:
    """Events of one study with a higher id than ``after``."""
    query = select(Event).where(Event.study_id == study_id, Event.id > after)
    return list(session.scalars(query.order_by(Event.id).limit(limit)))


def last_heard(session: Session, study_id: int) -> datetime | None:
    """When the last word came of any of a study's trials; None: there was none."""
    query = select(Event.created_at).where(
        Event.study_id == study_id, Event.kind.in_(("trial.measured", "trial.state"))
    )
    return session.scalar(query.order_by(Event.id.desc()).limit(1))


def newest(session: Session, study_id: int) -> int:
    """The id of a study's last event, 0 where there is none."""
    return session.scalar(select(func.max(Event.id)).where(Event.study_id == study_id)) or 0


def before(session: Session, first_id: int | None, limit: int) -> list[Event]:
    """Events with a lower id, of everything, the newest first."""
    query = select(Event)
    if first_id is not None:
        query = query.where(Event.id < first_id)
    return list(session.scalars(query.order_by(Event.id.desc()).limit(limit)))


def log_once_committed(session: Session, events: Sequence[NewEvent], actor: str | None) -> None:
    """Logs what has happened when the session's transaction is committed, and not before."""
    session.info.setdefault(COMMITTED, []).append(lambda: log_all(events, actor))


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
        said = " ".join(
            f"{key}={value}" for key, value in event.told().items() if value is not None
        )
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


def as_rows(events: Sequence[NewEvent], actor: str | None, now: datetime) -> list[dict[str, Any]]:
    """Events as ``ADD`` and :func:`adding` take them."""
    return [
        {
            "place": i,
            "study_id": e.study_id,
            "trial_id": e.trial_id,
            "worker_id": e.worker_id,
            "kind": e.kind,
            "data": e.told(),
            "actor": actor,
            "created_at": now,
        }
        for i, e in enumerate(events)
    ]


def adding(after: FromClause | None = None, given_by: GivenBy = given_rows) -> Insert:
    """Stores given events on PostgreSQL, with the lock that :func:`settled` waits for.

    Args:
        after: If given, as often as this has rows.
        given_by: In which form they are given.
    """
    given = given_by("events", [*(_table.c[name] for name in _COLUMNS), column("place", Integer)])
    held = select(func.pg_advisory_xact_lock_shared(ORDER_LOCK).label("held")).subquery("lock")
    source = given.join(held, true())
    if after is not None:
        source = source.join(after, true())
    rows = select(*[given.c[name] for name in _COLUMNS]).select_from(source)
    added = insert(_table).from_select(_COLUMNS, rows.order_by(given.c.place))
    return added.returning(_table.c.id)


ADD = Prepared(insert(_table), _COLUMNS)
"""Stores one event on SQLite."""
_ADD_GIVEN = Prepared(adding())
