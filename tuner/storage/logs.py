"""Logs: what scripts printed, in pieces that come in order and are stored once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from sqlalchemy import Insert, Table, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tuner.storage.models import LogPiece

_table = cast("Table", LogPiece.__table__)
_INSERT: dict[str, Insert] = {
    "postgresql": postgresql.insert(_table).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(_table).on_conflict_do_nothing(),
}


@dataclass(frozen=True)
class NewPiece:
    """A stretch of a log, before it is stored."""

    trial_id: int
    attempt: int
    lease: str
    start: int
    size: int
    text: str


def add(session: Session, pieces: Sequence[NewPiece]) -> None:
    """Stores pieces in one batch; one that is there already stays as it was."""
    if pieces:
        session.connection().execute(
            _INSERT[session.get_bind().dialect.name], [asdict(piece) for piece in pieces]
        )


@dataclass(frozen=True)
class Begun:
    """A run that has printed something: of which attempt, and up to which byte it is known."""

    attempt: int
    end: int


def begun(session: Session, trial_ids: Collection[int]) -> dict[tuple[int, str], Begun]:
    """The runs of these trials that have printed something, by trial and lease."""
    end = func.max(LogPiece.start + LogPiece.size)
    rows = session.execute(
        select(LogPiece.trial_id, LogPiece.lease, func.max(LogPiece.attempt), end)
        .where(LogPiece.trial_id.in_(trial_ids))
        .group_by(LogPiece.trial_id, LogPiece.lease)
    )
    return {(trial_id, lease): Begun(attempt, end) for trial_id, lease, attempt, end in rows}


def sizes(session: Session, trial_id: int, attempt: int) -> list[tuple[int, int]]:
    """Id and size of every piece of an attempt, in order."""
    rows = session.execute(
        select(LogPiece.id, LogPiece.size)
        .where(LogPiece.trial_id == trial_id, LogPiece.attempt == attempt)
        .order_by(LogPiece.id)
    )
    return [(piece_id, size) for piece_id, size in rows]


def remove(session: Session, piece_ids: Collection[int]) -> None:
    """Deletes pieces."""
    session.execute(
        delete(LogPiece)
        .where(LogPiece.id.in_(piece_ids))
        .execution_options(synchronize_session=False)
    )


def attempts(session: Session, trial_id: int) -> list[int]:
    """The attempts of a trial that have a log."""
    return list(
        session.scalars(
            select(LogPiece.attempt)
            .where(LogPiece.trial_id == trial_id)
            .distinct()
            .order_by(LogPiece.attempt)
        )
    )


def pieces(session: Session, trial_id: int, attempt: int, since: int) -> list[LogPiece]:
    """The pieces of an attempt in order, from the one with id ``since`` on."""
    return list(
        session.scalars(
            select(LogPiece)
            .where(LogPiece.trial_id == trial_id, LogPiece.attempt == attempt, LogPiece.id >= since)
            .order_by(LogPiece.id)
        )
    )
