"""Access tokens, by the hash of their secret; the secret itself is nowhere."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.storage.models import Token


def add(session: Session, token: Token) -> int:
    """Stores a new token and says its id."""
    session.add(token)
    session.flush()
    return token.id


def by_hash(session: Session, digest: str) -> Token | None:
    """The token of that secret, whatever its state."""
    return session.scalar(select(Token).where(Token.hash == digest))


def by_name(session: Session, name: str) -> Token | None:
    """The token of that name, locked."""
    return session.scalar(select(Token).where(Token.name == name).with_for_update())


def get(session: Session, token_id: int) -> Token:
    """One token, locked.

    Raises:
        NotFound: It is not there.
    """
    token = session.get(Token, token_id, with_for_update=True)
    if token is None:
        raise NotFound("token", token_id)
    return token


def every(session: Session) -> list[Token]:
    """All tokens, the oldest first."""
    return list(session.scalars(select(Token).order_by(Token.id)))


def touch(session: Session, token_id: int, now: datetime, unless_since: datetime) -> None:
    """Notes a use, unless one was noted after ``unless_since`` already."""
    session.execute(
        update(Token)
        .where(
            Token.id == token_id,
            or_(Token.last_used_at.is_(None), Token.last_used_at <= unless_since),
        )
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )
