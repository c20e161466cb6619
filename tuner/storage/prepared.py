"""Statements of the busiest paths: built with SQLAlchemy, compiled once, executed as text.

To execute a statement object, SQLAlchemy walks through it for its compiled form, and wraps what
comes back. On the path of every report that costs several times what the database takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    literal_column,
    select,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.sql import FromClause
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement, ReturnsRows
from sqlalchemy.types import TypeEngine

from tuner.storage.direct import Direct
from tuner.storage.engine import dump_json
from tuner.storage.models import UtcDateTime

Processor = Callable[[Any], Any]
Executing = Connection | Direct
"""What executes it: SQLAlchemy's connection, or the driver's own."""

SAME_TIMES = 64
"""Times whose form for the database is remembered: a batch has few, in many rows."""


class Prepared:
    """One statement; its parameters and columns have the types that SQLAlchemy knows of them.

    It has no lists (``IN``) as long as their parameter is: those are another text each time.

    Args:
        statement: What to execute.
        columns: Those that an INSERT or UPDATE without values of its own writes, each from the
            parameter of its name.
    """

    def __init__(self, statement: Executable, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._compiled: WeakKeyDictionary[Dialect, _Compiled] = WeakKeyDictionary()

    def rows(self, connection: Executing, values: Mapping[str, Any]) -> list[Sequence[Any]]:
        """Executes it and reads what it returns."""
        compiled = self._for(connection.dialect)
        bound = compiled.bound(values)
        if isinstance(connection, Direct):
            return compiled.read(connection.rows(compiled.text, bound))
        return compiled.read(connection.exec_driver_sql(compiled.text, bound).all())

    def run(self, connection: Executing, values: Mapping[str, Any]) -> None:
        """Executes it."""
        compiled = self._for(connection.dialect)
        bound = compiled.bound(values)
        if isinstance(connection, Direct):
            connection.run(compiled.text, bound)
        else:
            connection.exec_driver_sql(compiled.text, bound)

    def run_many(self, connection: Executing, rows: Sequence[Mapping[str, Any]]) -> None:
        """Executes it once for each of ``rows``."""
        if not rows:
            return
        compiled = self._for(connection.dialect)
        bound = [compiled.bound(row) for row in rows]
        if isinstance(connection, Direct):
            connection.run_many(compiled.text, bound)
        else:
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
    names: list[str]
    """Of its parameters, in the order of the text where it has places instead of names."""
    given: list[tuple[int, Processor]]
    """Places among them whose value is not yet what the driver wants."""
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
        names = list(compiled.positiontup or ()) if compiled.positional else list(types)
        given = [(i, _binding(types[name], dialect)) for i, name in enumerate(names)]
        read: list[tuple[int, Processor | None]] = []
        if isinstance(statement, ReturnsRows):
            read = [
                (i, one.type.dialect_impl(dialect).result_processor(dialect, None))
                for i, one in enumerate(statement.exported_columns)
                if not isinstance(one.type, Float)  # drivers give floats as they are
            ]
        return cls(
            compiled.string,
            compiled.positional,
            names,
            [(i, process) for i, process in given if process is not None],
            fixed,
            [(i, process) for i, process in read if process is not None],
        )

    def bound(self, values: Mapping[str, Any]) -> Any:
        """Parameters as the driver takes them."""
        known = {**self.fixed, **values} if self.fixed else values
        row = [known[name] for name in self.names]
        for i, process in self.given:
            row[i] = process(row[i])
        return tuple(row) if self.positional else dict(zip(self.names, row, strict=True))

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


def _binding(kind: TypeEngine[Any], dialect: Dialect) -> Processor | None:
    if isinstance(kind, JSON) and kind.none_as_null:
        return _json_or_null  # SQLAlchemy's own asks twice what to do with None, for each value
    process = kind.dialect_impl(dialect).bind_processor(dialect)
    if process is not None and isinstance(kind, UtcDateTime):
        return functools.lru_cache(SAME_TIMES)(process)
    return process


def _json_or_null(value: object) -> str | None:
    return None if value is None else dump_json(value)


def given_rows(name: str, columns: Iterable[ColumnElement[Any]]) -> FromClause:
    """Rows that a statement on PostgreSQL gets as one parameter, which ``dump_json`` writes."""
    text = sql_cast(bindparam(name, type_=Text), JSON)
    typed = [column(str(one.key), one.type) for one in columns]
    rows = func.json_to_recordset(text).table_valued(*typed)
    return rows.render_derived(name=f"g_{name}", with_types=True)


def given_row(name: str, columns: Iterable[ColumnElement[Any]]) -> FromClause:
    """One such row, with a parameter for each column, as :func:`named_row` names them.

    The server needs a sixth less time for it than for one that it has to read out of a text.
    """
    values = [
        sql_cast(bindparam(f"{name}_{one.key}", type_=one.type), one.type).label(str(one.key))
        for one in columns
    ]
    return select(*values).subquery(f"g_{name}")


def named_row(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as parameters of a statement that is given it by :func:`given_row`."""
    return {f"{name}_{key}": value for key, value in row.items()}


GivenBy = Callable[[str, Iterable[ColumnElement[Any]]], FromClause]
"""Either of the two."""


def looked_up(key: ColumnElement[Any], given: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a row has a given id, for PostgreSQL to find by its index.

    Of given rows it supposes a hundred, and would sooner read the whole of a table that was small
    when it last looked than find a hundred. Of ids between two bounds it supposes a few.
    """
    return (key == given) & given.between(literal_column("0"), literal_column(str(2**63 - 1)))


def all_of(given: FromClause) -> ColumnElement[Any]:
    """All columns of given rows, in their order.

    One by one they would make a long text: psycopg remembers the form of texts up to 4,096
    characters, and takes longer to find that of longer ones than the server takes to execute them.
    """
    return literal_column(f"{given.description}.*")
