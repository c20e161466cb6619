"""Workers: who they are and when they were last heard of."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.storage.models import Trial, Worker


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


def touch(session: Session, worker_id: int, now: datetime, status: dict[str, Any] | None) -> None:
    """Notes a sign of life; a worker that was given up is back."""
    state = case((Worker.state == "gone", "active"), else_=Worker.state)
    values: dict[str, Any] = {"heartbeat_at": now, "state": state}
    if status:
        values["status"] = status
    session.execute(
        update(Worker)
        .where(Worker.id == worker_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def silent(session: Session, before: datetime) -> list[Worker]:
    """Workers not heard of since ``before`` that still count as there."""
    return list(
        session.scalars(
            select(Worker)
            .where(Worker.state != "gone", Worker.heartbeat_at < before)
            .order_by(Worker.id)
        )
    )


def everyone(session: Session) -> list[Worker]:
    """All workers, those heard of last first."""
    return list(session.scalars(select(Worker).order_by(Worker.heartbeat_at.desc(), Worker.id)))


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
