"""Statements of the busiest paths: built with SQLAlchemy, compiled once, executed as text.

To execute a statement object, SQLAlchemy walks through it for its compiled form, and wraps what
comes back. On the path of every report that costs several times what the database takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from weakref import WeakKeyDictionary

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Dialect,
    Executable,
    Float,
    Text,
    bindparam,
    column,
    func,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.sql import FromClause
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement, ReturnsRows

from tuner.storage.engine import dump_json

Processor = Callable[[Any], Any]


class Prepared:
    """One statement; its parameters and columns have the types that SQLAlchemy knows of them.

    Args:
        statement: What to execute.
        columns: Those that an INSERT or UPDATE without values of its own writes, each from the
            parameter of its name.
    """

    def __init__(self, statement: Executable, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._compiled: WeakKeyDictionary[Dialect, _Compiled] = WeakKeyDictionary()

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[Sequence[Any]]:
        """Executes it and reads what it returns."""
        compiled = self._for(connection.dialect)
        found = connection.exec_driver_sql(compiled.text, compiled.bound(values)).all()
        return compiled.read(found)

    def run(self, connection: Connection, values: Mapping[str, Any]) -> None:
        """Executes it."""
        compiled = self._for(connection.dialect)
        connection.exec_driver_sql(compiled.text, compiled.bound(values))

    def run_many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Executes it once for each of ``rows``."""
        if rows:
            compiled = self._for(connection.dialect)
            bound = [compiled.bound(row) for row in rows]
            connection.exec_driver_sql(compiled.text, cast("Any", bound))

    def _for(self, dialect: Dialect) -> _Compiled:
        known = self._compiled.get(dialect)
        if known is None:
            known = self._compiled[dialect] = _Compiled.of(self._statement, self._columns, dialect)
        return known


@dataclass(frozen=True)
class _Compiled:
    """A statement's text for one kind of database, and how values go in and come out."""

    text: str
    positional: bool
    parameters: list[tuple[str, Processor | None]]
    """Names in the order of the text where it has places instead of names."""
    fixed: dict[str, Any]
    """What the statement itself says."""
    columns: list[tuple[int, Processor]]
    """Places of a row whose value is not yet what Python wants."""

    @classmethod
    def of(
        cls, statement: Executable, columns: Sequence[str] | None, dialect: Dialect
    ) -> _Compiled:
        element = cast("ClauseElement", statement)
        compiled = cast("SQLCompiler", element.compile(dialect=dialect, column_keys=columns))
        types = {name: bind.type for bind, name in compiled.bind_names.items()}
        fixed = {
            name: bind.effective_value
            for bind, name in compiled.bind_names.items()
            if not bind.required
        }
        names = compiled.positiontup if compiled.positional else list(types)
        read = []
        if isinstance(statement, ReturnsRows):
            for i, one in enumerate(statement.exported_columns):
                if isinstance(one.type, Float):  # drivers give floats as they are
                    continue
                process = one.type.dialect_impl(dialect).result_processor(dialect, None)
                if process is not None:
                    read.append((i, process))
        return cls(
            compiled.string,
            compiled.positional,
            [(n, types[n].dialect_impl(dialect).bind_processor(dialect)) for n in names or ()],
            fixed,
            read,
        )

    def bound(self, values: Mapping[str, Any]) -> Any:
        """Parameters as the driver takes them."""
        given = {**self.fixed, **values} if self.fixed else values
        if self.positional:
            return tuple(
                given[name] if process is None else process(given[name])
                for name, process in self.parameters
            )
        return {
            name: given[name] if process is None else process(given[name])
            for name, process in self.parameters
        }

    def read(self, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """Rows with Python's values."""
        if not self.columns:
            return list(rows)
        out: list[Sequence[Any]] = []
        for row in rows:
            values = list(row)
            for i, process in self.columns:
                values[i] = process(values[i])
            out.append(values)
        return out


def given_rows(name: str, columns: Iterable[ColumnElement[Any]]) -> FromClause:
    """Rows that a statement on PostgreSQL is given in one parameter; see :func:`json_rows`."""
    text = sql_cast(bindparam(name, type_=Text), JSON)
    typed = [column(str(one.key), one.type) for one in columns]
    rows = func.json_to_recordset(text).table_valued(*typed)
    return rows.render_derived(name=f"given_{name}", with_types=True)


def json_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as that parameter: a number keeps all its digits, a time its zone."""
    return dump_json(rows, default=datetime.isoformat)
