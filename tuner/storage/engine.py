"""The connection to the database: how it is opened, how transactions begin, what errors become.

SQLite runs in WAL mode, so readers never wait for a writer; a transaction that will write begins
IMMEDIATE, because one that reads first and writes later can only fail when another wrote between.
PostgreSQL is spoken to through psycopg 3. Nothing above this file catches a driver's error.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import errors
from pydantic_core import to_json
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from tuner.errors import (
    Conflict,
    InvalidInput,
    Locked,
    SchemaOutdated,
    TunerError,
    Unavailable,
)
from tuner.storage import postgres
from tuner.storage.direct import Direct, checked_out

BUSY_TIMEOUT_SECONDS = 30.0
"""How long SQLite waits for another process's write; also for a connection from the pool."""

FRESH_SECONDS = 1.0
"""A connection to PostgreSQL that was in use so lately is taken to be alive."""

_MODE = "tuner_mode"
_USED_AT = "tuner_used_at"
_READ_ONLY = "tuner_read_only"
READING: dict[str, Any] = {_MODE: "read", "postgresql_readonly": True}
"""Execution options under which a transaction refuses to write, on both databases."""
WRITING: dict[str, Any] = {_MODE: "write"}
"""Execution options under which a transaction on SQLite takes the write lock as it begins."""
COMMITTED = "committed"
"""In a session's ``info``: what to call once the transaction is committed, and not before."""
_SQLITE_MISSING = ("no such table", "no such column", "has no column named")
_OTHER_TABLES = (
    "the database has not the tables of this version: `tuner db current` says which it has, and "
    "`tuner db upgrade` brings them up to date"
)
_OUT_OF_RANGE = "a value is of no use to the database: out of range, or not text"
_SQLITE_PASSING = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_FULL"})


def parse_url(url: str | URL) -> URL:
    """Checks a database URL and names the driver.

    Raises:
        InvalidInput: Not a URL, another kind of database, or SQLite in memory: every thread and
            every process would see a database of its own.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput(
            "database_url", "expected sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from error
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise InvalidInput(
            "database_url", f"{parsed.drivername} is not supported; use sqlite or postgresql"
        )
    name = parsed.database or ""
    if name in ("", ":memory:") or name.startswith("file:"):
        raise InvalidInput("database_url", "SQLite needs a file of its own: sqlite:///FILE")
    return parsed


class Database:
    """One database, and the pool of connections to it. Threads may share it; processes may not.

    Args:
        url: ``sqlite:///FILE`` (the folder is made) or ``postgresql://...``.
        pool_size: Connections kept open; as many again may be opened under load.

    Raises:
        InvalidInput: See :func:`parse_url`; or the folder cannot be made.
    """

    def __init__(self, url: str | URL, *, pool_size: int = 10) -> None:
        self.url = parse_url(url)
        self.dialect = self.url.get_backend_name()
        self._writing = threading.Lock()
        self._writer: int | None = None
        self.engine = self._create(pool_size)
        # Whoever drops the database need not remember to close it.
        weakref.finalize(self, self.engine.dispose)
        # The same pool, other ways to begin: the option tells the event handler which.
        self._readers = self.engine.execution_options(**READING)
        self._writers = self.engine.execution_options(**WRITING)

    def __repr__(self) -> str:
        return f"Database({self.url.render_as_string(hide_password=True)!r})"

    @property
    def embedded(self) -> bool:
        """Whether the database is a file that belongs to this program."""
        return self.dialect == "sqlite"

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session for reading: rolled back at the end, refuses to write.

        On SQLite all of it sees one state; on PostgreSQL each statement what is committed then.

        Raises:
            Unavailable: The database cannot be reached.
        """
        with translated(), Session(self._readers, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session for writing: committed when the block ends, rolled back when it raises.

        On SQLite it holds the one write lock from its first line to its last, so keep it short.

        Raises:
            Unavailable: The database cannot be reached, or stayed locked.
            Conflict: A constraint refused what was written.
        """
        with translated(), self._turn(), Session(self._writers, expire_on_commit=False) as session:
            session.connection()  # begins now, not at the first statement
            yield session
            session.commit()
            for tell in session.info.pop(COMMITTED, ()):
                tell()

    @contextmanager
    def peek(self) -> Iterator[Direct]:
        """For one prepared statement that reads, without a transaction around it.

        Raises:
            Unavailable: The database cannot be reached.
        """
        with translated(), checked_out(self.engine) as direct:
            if self.embedded:
                _only_read(direct.run, direct.info, True)
            yield direct

    @contextmanager
    def brief(self) -> Iterator[Direct]:
        """For one prepared statement that writes, which on PostgreSQL commits itself.

        On SQLite, where several cost no more, it is a transaction like that of :meth:`write`.

        Raises:
            Unavailable: The database cannot be reached, or stayed locked.
            Conflict: A constraint refused what was written.
        """
        with translated(), self._turn(), checked_out(self.engine) as direct:
            if not self.embedded:
                yield direct
                return
            _only_read(direct.run, direct.info, False)
            direct.run("BEGIN IMMEDIATE")
            yield direct
            direct.run("COMMIT")

    def dispose(self) -> None:
        """Closes all connections that are not in use."""
        self.engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One writer at a time on SQLite, in the order they came.

        SQLite itself only polls, with growing pauses: with 8 threads most of their time was sleep.
        """
        if not self.embedded:
            yield
            return
        if self._writer == threading.get_ident():
            raise RuntimeError("write() inside write(): pass the session down instead")
        if not self._writing.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            raise Unavailable("the database is busy: another write takes too long")
        self._writer = threading.get_ident()
        try:
            yield
        finally:
            self._writer = None
            self._writing.release()

    def _create(self, pool_size: int) -> Engine:
        json_options = {"json_serializer": dump_json, "json_deserializer": json.loads}
        pool_options = {
            "pool_size": pool_size,
            "max_overflow": pool_size,
            "pool_timeout": BUSY_TIMEOUT_SECONDS,
        }
        if not self.embedded:
            engine = create_engine(self.url, **pool_options, **json_options)
            postgres.bound(engine)
            _check_when_idle(engine)
            return engine
        folder = Path(cast("str", self.url.database)).absolute().parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                "database_url", f"there is no folder {folder}, nor can it be made: {error.strerror}"
            ) from error
        engine = create_engine(
            self.url,
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
            **pool_options,
            **json_options,
        )
        event.listen(engine, "do_connect", _make_private)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine


def _check_when_idle(engine: Engine) -> None:
    """Asks the server whether a connection lives, unless it was in use a moment ago.

    ``pool_pre_ping`` asks each time, which takes a third of a short transaction.
    """

    def note_use(connection: postgres.Answered | None, record: ConnectionPoolEntry) -> None:
        record.info[_USED_AT] = time.monotonic()
        if connection is not None:
            connection.patience_seconds = postgres.ANSWER_SECONDS

    def check(connection: postgres.Answered, record: ConnectionPoolEntry, _proxy: object) -> None:
        idle = time.monotonic() - record.info.get(_USED_AT, math.inf)
        if idle < FRESH_SECONDS:
            return
        try:
            connection.patience_seconds = postgres.PING_SECONDS
            engine.dialect.do_ping(connection)  # type: ignore[arg-type]  # SQLAlchemy's own protocol
            connection.patience_seconds = postgres.ANSWER_SECONDS
        except psycopg.Error as error:
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", note_use)
    event.listen(engine, "checkout", check)


def _make_private(_dialect: object, _record: object, args: list[str], _options: object) -> None:
    """Makes the file for its owner alone where there is none; SQLite gives its others that mode.

    It holds what webhooks sign with. Where it cannot be made, SQLite says why.
    """
    with suppress(OSError):
        os.close(os.open(args[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Without this sqlite3 begins transactions by itself, late, and never around a SELECT.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_wal(cursor)
    for pragma in (
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "cache_size=-32768",
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


# SQLite's own waiting does not cover this one: two processes that open a new file together.
@retry(
    retry=retry_if_exception(_is_busy),
    wait=wait_random(0.001, 0.02),
    stop=stop_after_delay(BUSY_TIMEOUT_SECONDS),
    reraise=True,
)
def _use_wal(cursor: sqlite3.Cursor) -> None:
    cursor.execute("PRAGMA journal_mode=WAL")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get(_MODE)
    fairy = connection.connection
    driver = cast("sqlite3.Connection", fairy.dbapi_connection)
    _only_read(driver.execute, fairy.info, mode == "read")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")


def _only_read(execute: Callable[[str], object], info: dict[Any, Any], reads: bool) -> None:
    """Makes a SQLite connection refuse to write, or not."""
    if info.get(_READ_ONLY) != reads:
        execute(f"PRAGMA query_only={'ON' if reads else 'OFF'}")
        info[_READ_ONLY] = reads


def dump_json(value: object) -> str:
    """JSON that every database takes, with times in ISO 8601.

    Numbers that are not finite become strings, like ``inf``.
    """
    try:
        text = to_json(value, inf_nan_mode="constants").decode()
    except ValueError:
        text = "NaN"  # a text that is not Unicode, which the other encoder escapes
    if "NaN" in text or "Infinity" in text:
        return _ENCODER.encode(_finite(value))
    return text


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=datetime.isoformat)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@contextmanager
def translated() -> Iterator[None]:
    """Turns what the driver raises into this package's errors; what is a bug passes through."""
    try:
        yield
    except OverflowError as error:
        if "SQLite" not in str(error):
            raise
        # The driver's, which SQLAlchemy does not wrap as it is no error of databases.
        raise InvalidInput("", _OUT_OF_RANGE) from error
    except (DBAPIError, PoolTimeout) as error:
        known = translate(error)
        if known is None:
            raise
        raise known from error


def translate(error: DBAPIError | PoolTimeout) -> TunerError | None:
    """The error that this one means to a caller, or None where it shows a mistake of ours."""
    if isinstance(error, PoolTimeout):
        return Unavailable("all database connections are in use")
    cause = error.orig
    if isinstance(error, IntegrityError):
        return Conflict("the database refused this: it contradicts what is stored", **_facts(cause))
    if isinstance(cause, sqlite3.Error):
        return _of_sqlite(cause)
    if isinstance(error, DataError) or isinstance(cause, psycopg.DataError):
        return InvalidInput("", _OUT_OF_RANGE)
    return _of_postgres(cause) or (
        Unavailable("the database cannot be reached now")
        if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        else None
    )


def _of_sqlite(cause: sqlite3.Error) -> TunerError | None:
    name = str(getattr(cause, "sqlite_errorname", ""))
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return Unavailable(f"the database file is damaged, or is none: {cause}")
    if any(words in str(cause) for words in _SQLITE_MISSING):
        return SchemaOutdated(_OTHER_TABLES)
    passing = name.startswith(("SQLITE_BUSY", "SQLITE_IOERR")) or name in _SQLITE_PASSING
    return Unavailable(f"the database cannot be used now: {cause}") if passing else None


def _of_postgres(cause: BaseException | None) -> TunerError | None:
    if isinstance(cause, errors.LockNotAvailable):
        return Locked("another transaction has locked what this would change; try again")
    if isinstance(cause, errors.QueryCanceled):
        return Unavailable("the database took too long over this")
    if isinstance(cause, errors.UndefinedTable | errors.UndefinedColumn):
        return SchemaOutdated(_OTHER_TABLES)
    if isinstance(cause, errors.InsufficientPrivilege):
        return Unavailable(f"the database refuses its user this: {cause.diag.message_primary}")
    return None


def _facts(cause: BaseException | None) -> dict[str, object]:
    if isinstance(cause, psycopg.Error) and cause.diag.constraint_name:
        return {"constraint": cause.diag.constraint_name}
    return {"constraint": str(cause)} if isinstance(cause, sqlite3.Error) else {}
