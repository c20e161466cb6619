"""Pools: how many workers are wanted of those that something else places."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.storage.models import Pool


def add(session: Session, pool: Pool) -> int:
    """Stores a new pool and says its id."""
    session.add(pool)
    session.flush()
    return pool.id


def get(session: Session, pool_id: int) -> Pool:
    """One pool, locked.

    Raises:
        NotFound: It is not there.
    """
    pool = session.get(Pool, pool_id, with_for_update=True)
    if pool is None:
        raise NotFound("pool", pool_id)
    return pool


def by_name(session: Session, name: str) -> Pool | None:
    """The pool of that name, locked."""
    return session.scalar(select(Pool).where(Pool.name == name).with_for_update())


def every(session: Session) -> list[Pool]:
    """All pools, by name."""
    return list(session.scalars(select(Pool).order_by(Pool.name)))
