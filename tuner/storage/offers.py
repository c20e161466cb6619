"""Tasks that workers offer: their forms by name, the last word counts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tuner.storage.models import OfferedTask

_table = cast("Table", OfferedTask.__table__)
_INSERT: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def put(session: Session, forms: Mapping[str, dict[str, Any]], now: datetime) -> None:
    """Stores forms, each in place of what was said of that task before."""
    if not forms:
        return
    statement = _INSERT[session.get_bind().dialect.name](_table)
    statement = statement.on_conflict_do_update(
        index_elements=[_table.c.name],
        set_={name: statement.excluded[name] for name in ("form", "offered_at")},
    )
    # In the order of their names: two workers that register at once must not wait for each other.
    rows = [{"name": name, "form": forms[name], "offered_at": now} for name in sorted(forms)]
    session.connection().execute(statement, rows)


def get(session: Session, name: str) -> dict[str, Any] | None:
    """The form of one task, if it was ever offered."""
    return session.scalar(select(OfferedTask.form).where(OfferedTask.name == name))


def every(session: Session) -> dict[str, dict[str, Any]]:
    """All forms by name."""
    rows = session.execute(select(OfferedTask.name, OfferedTask.form).order_by(OfferedTask.name))
    return {name: form for name, form in rows}  # noqa: C416  (rows are no pairs to dict)


def scripts(session: Session) -> set[str]:
    """The names of those that are scripts, of which a worker runs one at a time."""
    kind = OfferedTask.form["kind"].as_string()
    return set(session.scalars(select(OfferedTask.name).where(kind == "script")))
