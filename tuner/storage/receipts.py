"""Receipts: what a request made, so that the same request said again makes it once."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tuner.storage.models import Receipt
from tuner.storage.prepared import Executing, Prepared

_table = cast("Table", Receipt.__table__)
_COLUMNS = ("key", "made", "created_at")
_FIND = Prepared(select(_table.c.made).where(_table.c.key == bindparam("key")))
_KEEP = {
    "postgresql": Prepared(
        postgresql.insert(_table).on_conflict_do_nothing().returning(_table.c.key), _COLUMNS
    ),
    "sqlite": Prepared(
        sqlite.insert(_table).on_conflict_do_nothing().returning(_table.c.key), _COLUMNS
    ),
}


def find(connection: Executing, key: str) -> dict[str, Any] | None:
    """What a request of this name has made; None: there was none."""
    rows = _FIND.rows(connection, {"key": key})
    return rows[0][0] if rows else None


def keep(
    connection: Executing, key: str, made: dict[str, Any], now: datetime
) -> dict[str, Any] | None:
    """Notes what this request makes, unless one of the same name has made something before.

    Waits for a transaction that keeps the same name at this moment.

    Returns:
        What was made before; None: this is the first request of its name.
    """
    values = {"key": key, "made": made, "created_at": now}
    if _KEEP[connection.dialect.name].rows(connection, values):
        return None
    return find(connection, key)


def fill(session: Session, key: str, made: dict[str, Any]) -> None:
    """Says what the request made whose name this transaction keeps."""
    session.execute(
        update(Receipt)
        .where(Receipt.key == key)
        .values(made=made)
        .execution_options(synchronize_session=False)
    )


def forget(session: Session, before: datetime) -> None:
    """Removes those kept before a moment: nobody repeats such an old request."""
    session.execute(
        delete(Receipt)
        .where(Receipt.created_at < before)
        .execution_options(synchronize_session=False)
    )
