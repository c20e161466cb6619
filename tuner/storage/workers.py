"""Workers: who they are and when they were last heard of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, bindparam, case, exists, func, select, update
from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.storage.models import Event, Trial, Worker
from tuner.storage.prepared import Executing, Prepared

_table = cast("Table", Worker.__table__)

DRAINING = "worker.draining"
"""The event of a worker that is given no more trials, for as long as it lives."""


@dataclass(frozen=True)
class Present:
    """A worker that was just heard of: what its calls are answered by."""

    id: int
    state: str
    tasks: Sequence[str]


def _touch(*said: str) -> Prepared:
    # A drain outlasts silence. Its event says so, which is looked for only as a worker comes back.
    drained = exists().where(Event.worker_id == _table.c.id, Event.kind == DRAINING)
    again = case((drained, "draining"), else_="active")
    back = case((_table.c.state == "gone", again), else_=_table.c.state)
    return Prepared(
        update(_table)
        .where(_table.c.id == bindparam("worker"))
        .values(state=back, **{name: bindparam(name) for name in ("heartbeat_at", *said)})
        .returning(_table.c.id, _table.c.state, _table.c.tasks)
    )


_TOUCH, _TOUCH_SAYING = _touch(), _touch("status")


def add(session: Session, worker: Worker) -> int:
    """Stores a new worker and says its id."""
    session.add(worker)
    session.flush()
    return worker.id


def get(session: Session, worker_id: int, *, lock: bool = False) -> Worker:
    """One worker.

    Raises:
        NotFound: It is not there.
    """
    worker = session.get(Worker, worker_id, with_for_update=lock)
    if worker is None:
        raise NotFound("worker", worker_id)
    return worker


def touch(
    connection: Executing, worker_id: int, now: datetime, status: dict[str, Any] | None
) -> Present:
    """Notes a sign of life; a worker that was given up is back, and drained if it was before.

    Raises:
        NotFound: It is not there.
    """
    values = {"worker": worker_id, "heartbeat_at": now}
    if status:
        found = _TOUCH_SAYING.rows(connection, {**values, "status": status})
    else:
        found = _TOUCH.rows(connection, values)
    if not found:
        raise NotFound("worker", worker_id)
    return Present(*found[0])


def silent(session: Session, before: datetime) -> list[Worker]:
    """Workers not heard of since ``before`` that still count as there."""
    return list(
        session.scalars(
            select(Worker)
            .where(Worker.state != "gone", Worker.heartbeat_at < before)
            .order_by(Worker.id)
        )
    )


def everyone(session: Session, since: datetime) -> list[Worker]:
    """The workers that are there or were after ``since``, those heard of last first."""
    order = (Worker.heartbeat_at.desc(), Worker.id)
    return list(session.scalars(select(Worker).where(_known(since)).order_by(*order)))


def before(session: Session, since: datetime, worker_id: int | None, limit: int) -> list[Worker]:
    """Those of :func:`everyone` that registered before a worker, the newest first."""
    query = select(Worker).where(_known(since)).order_by(Worker.id.desc()).limit(limit)
    if worker_id is not None:
        query = query.where(Worker.id < worker_id)
    return list(session.scalars(query))


def _known(since: datetime) -> ColumnElement[bool]:
    return (Worker.state != "gone") | (Worker.heartbeat_at > since)


def names(session: Session, worker_ids: Collection[int]) -> dict[int, str]:
    """What these workers are called, however long they have been gone."""
    rows = session.execute(select(Worker.id, Worker.name).where(Worker.id.in_(worker_ids)))
    return {row.id: row.name for row in rows}


def active(session: Session) -> list[tuple[Worker, int]]:
    """The active workers, each with how many trials it holds."""
    held = func.count(Trial.id).filter(Trial.lease_token.is_not(None))
    rows = session.execute(
        select(Worker, held)
        .outerjoin(Trial, (Trial.worker_id == Worker.id) & (Trial.state == "running"))
        .where(Worker.state == "active")
        .group_by(Worker.id)
        .order_by(Worker.id)
    )
    return [(worker, n) for worker, n in rows]


def held(session: Session, worker_ids: Collection[int]) -> dict[int, int]:
    """How many trials each worker holds; those that hold none are left out."""
    rows = session.execute(
        select(Trial.worker_id, func.count())
        .where(
            Trial.worker_id.in_(worker_ids),
            Trial.state == "running",
            Trial.lease_token.is_not(None),
        )
        .group_by(Trial.worker_id)
    )
    return {worker_id: n for worker_id, n in rows if worker_id is not None}
