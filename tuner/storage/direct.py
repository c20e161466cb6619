"""A connection as its driver has it, for the statements of the busiest paths.

SQLAlchemy's own connection, its transaction and its results cost 0.02 to 0.06 ms a statement, which
on SQLite is most of what a short transaction takes. The pool is the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Dialect, Engine
from sqlalchemy.exc import DBAPIError

DRIVER_ERRORS = (psycopg.Error, sqlite3.Error)


class Direct:
    """What executes text; on both databases each statement commits itself.

    Attributes:
        dialect: The database's, as on SQLAlchemy's connections.
        info: Of the connection, for as long as it lives.
    """

    def __init__(self, engine: Engine, driver: Any, info: dict[Any, Any]) -> None:
        self.dialect = engine.dialect
        self.info = info
        self._driver = driver
        self._text = ""

    def rows(self, text: str, parameters: Any = ()) -> list[Any]:
        """Executes a statement and fetches what it returns."""
        self._text = text
        found: list[Any] = self._driver.execute(text, parameters).fetchall()
        return found

    def run(self, text: str, parameters: Any = ()) -> None:
        """Executes a statement."""
        self._text = text
        self._driver.execute(text, parameters)

    def run_many(self, text: str, parameters: Sequence[Any]) -> None:
        """Executes a statement once for each of ``parameters``."""
        self._text = text
        self._driver.cursor().executemany(text, parameters)

    def failed(self, error: Exception) -> DBAPIError:
        """The driver's error as SQLAlchemy raises it, with the statement."""
        lost = self.dialect.is_disconnect(error, self._driver, None)  # type: ignore[arg-type]  # any driver's
        return _wrapped(error, self.dialect, self._text, lost=lost)


def _wrapped(error: Exception, dialect: Dialect, text: str, *, lost: bool) -> DBAPIError:
    wrapped = DBAPIError.instance(
        text, None, error, Exception, connection_invalidated=lost, dialect=dialect
    )
    assert isinstance(wrapped, DBAPIError)
    return wrapped


@contextmanager
def checked_out(engine: Engine) -> Iterator[Direct]:
    """A connection of the pool.

    Raises:
        DBAPIError: What the driver raised.
    """
    try:
        fairy = engine.raw_connection()
    except DRIVER_ERRORS as error:  # the pool makes connections, and wraps nothing
        raise _wrapped(error, engine.dialect, "", lost=True) from error
    driver: Any = fairy.dbapi_connection
    direct = Direct(engine, driver, fairy.info)
    own_commits = engine.dialect.name == "postgresql"
    try:
        if own_commits:
            driver.autocommit = True
        try:
            yield direct
        finally:
            if own_commits and not driver.closed:
                driver.autocommit = False
    except DRIVER_ERRORS as error:
        wrapped = direct.failed(error)
        if wrapped.connection_invalidated:
            fairy.invalidate(error)
        raise wrapped from error
    finally:
        fairy.close()
