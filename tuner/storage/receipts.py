"""Receipts: what a request made, so that the same request said again makes it once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import FromClause, Insert, Table, bindparam, delete, insert, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tuner.storage.models import Receipt
from tuner.storage.prepared import Executing, Prepared, all_of, given_rows

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


ADD = Prepared(insert(_table), _COLUMNS)
"""Keeps one on SQLite; refused where there is one of its name."""


@dataclass(frozen=True)
class NewReceipt:
    """What a request has made, before it is stored."""

    key: str
    made: dict[str, Any]

    def as_row(self, now: datetime) -> dict[str, Any]:
        """As ``ADD`` and :func:`adding` take it."""
        return {"key": self.key, "made": self.made, "created_at": now}


def adding(after: FromClause) -> Insert:
    """Keeps the given receipt on PostgreSQL, if ``after`` has a row; refused as ``ADD`` is."""
    given = given_rows("receipt", [_table.c[name] for name in _COLUMNS])
    rows = select(all_of(given)).select_from(given.join(after, true()))
    return insert(_table).from_select(_COLUMNS, rows).returning(_table.c.key)


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
