"""Brings a database's tables to the version that this code expects, and says when they are not.

The revisions live in ``migrations/`` of the source tree, and in ``tuner/_migrations`` of a wheel.
Two servers that start at once upgrade one after the other; a failed upgrade leaves nothing behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, func, inspect, select, table

import tuner
from tuner.errors import Conflict, InvalidInput, SchemaOutdated
from tuner.storage.engine import WRITING, Database, translated
from tuner.storage.postgres import allow

LOCK_KEY = 0x6D696772617465
"""The advisory lock on PostgreSQL that one upgrade at a time holds: "migrate" in ASCII."""


def upgrade(url: str | URL | Database, revision: str = "head") -> str:
    """Brings the database up to ``revision``, in one transaction; a no-op when it is there.

    Returns:
        The revision it is at afterwards.

    Raises:
        SchemaOutdated: The database was made by a newer version than this one.
        InvalidInput: There is no such revision.
        Unavailable: The database cannot be reached.
    """
    with _opened(url) as database, _exclusive(database) as connection:
        _refuse_newer(_revision(connection))
        _run(connection, command.upgrade, revision)
        return _revision(connection) or "base"


def downgrade(url: str | URL | Database, revision: str) -> str:
    """Takes the database back to ``revision``; ``base`` drops every table with its rows.

    Returns:
        The revision it is at afterwards.

    Raises:
        SchemaOutdated: The database was made by a newer version than this one.
        InvalidInput: There is no such revision.
        Unavailable: The database cannot be reached.
    """
    with _opened(url) as database, _exclusive(database) as connection:
        _refuse_newer(_revision(connection))
        _run(connection, command.downgrade, revision)
        return _revision(connection) or "base"


def losses(url: str | URL | Database, revision: str) -> list[str]:
    """What a downgrade would lose: tables with their rows, and columns.

    It is tried out, and undone: what the revisions say they do is kept in no second place.

    Raises:
        SchemaOutdated: The database was made by a newer version than this one.
        InvalidInput: There is no such revision.
        Unavailable: The database cannot be reached.
    """
    with _opened(url) as database:
        before: dict[str, set[str]] = {}
        after: dict[str, set[str]] = {}
        with suppress(_Undone), _exclusive(database) as connection:
            _refuse_newer(_revision(connection))
            before = _columns(connection)
            _run(connection, command.downgrade, revision)
            after = _columns(connection)
            raise _Undone
        lost = []
        with translated(), database.engine.connect() as connection:
            allow(connection, None)
            for name in sorted(before.keys() - after.keys()):
                rows = connection.scalar(select(func.count()).select_from(table(name)))
                lost.append(f"{name} ({rows} {'row' if rows == 1 else 'rows'})")
        for name in sorted(before.keys() & after.keys()):
            lost += [f"{name}.{column}" for column in sorted(before[name] - after[name])]
        return lost


def current(url: str | URL | Database) -> str | None:
    """The revision the database is at; None where it has no tables of ours."""
    with _opened(url) as database, translated(), database.engine.connect() as connection:
        return _revision(connection)


def head() -> str:
    """The revision that this code expects."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise RuntimeError("this installation has no migrations")
    return revision


def revisions() -> list[Script]:
    """All revisions, the first one first."""
    return list(_scripts().walk_revisions())[::-1]


def check(url: str | URL | Database) -> None:
    """Returns where the tables are those that this code expects.

    Raises:
        SchemaOutdated: They are not; the message says what to do.
        Unavailable: The database cannot be reached.
    """
    found = current(url)
    _refuse_newer(found)
    if found != head():
        raise SchemaOutdated(
            f"the database is at revision {found or 'none'} and this version needs {head()}: "
            "run `tuner db upgrade`",
            found=found,
            expected=head(),
        )


def prepare(url: str | URL | Database) -> None:
    """What a server does at its start: upgrades its own SQLite file, only checks any other.

    Raises:
        SchemaOutdated: An external database is out of date, or any was made by a newer version.
        Unavailable: The database cannot be reached.
    """
    with _opened(url) as database:
        if database.embedded:
            upgrade(database)
        else:
            check(database)


def folder() -> Path:
    """Where the revisions are.

    Raises:
        RuntimeError: The installation is broken: they are nowhere.
    """
    package = Path(tuner.__file__).resolve().parent
    for candidate in (package / "_migrations", package.parent / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    raise RuntimeError("this installation has no migrations")


def config() -> Config:
    """Alembic's configuration, made in code: no ini file to find."""
    made = Config()
    # ConfigParser reads % as the start of a reference.
    made.set_main_option("script_location", str(folder()).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    return made


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(config())


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(found: str | None) -> None:
    if found is None or found in {script.revision for script in revisions()}:
        return
    raise SchemaOutdated(
        f"the database is at revision {found}, made by a newer version of tuner: install that one",
        found=found,
        expected=head(),
    )


def _run(connection: Connection, step: Callable[[Config, str], None], revision: str) -> None:
    settings = config()
    settings.attributes["connection"] = connection
    try:
        step(settings, revision)
    except CommandError as error:
        raise InvalidInput("revision", str(error)) from error


class _Undone(Exception):
    """Rolls a transaction back that was only to be looked at."""


def _columns(connection: Connection) -> dict[str, set[str]]:
    """The columns of our tables by name; Alembic's own is none of ours."""
    found = inspect(connection).get_multi_columns()
    return {
        name: {column["name"] for column in columns}
        for (_schema, name), columns in found.items()
        if name != "alembic_version"
    }


@contextmanager
def _exclusive(database: Database) -> Iterator[Connection]:
    """A transaction that no other upgrade can run beside; committed at the end."""
    with translated(), database.engine.connect() as connection:
        if database.embedded:
            # Alembic changes a SQLite table by copying it, and dropping the old one would delete
            # every row that refers to it. The switch does nothing inside a transaction.
            raw = cast("sqlite3.Connection", connection.connection.dbapi_connection)
            raw.execute("PRAGMA foreign_keys=OFF")
            try:
                writing = connection.execution_options(**WRITING)
                with writing.begin():
                    yield writing
                    if writing.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise Conflict("the upgrade would leave rows that refer to nothing")
            finally:
                raw.execute("PRAGMA foreign_keys=ON")
        else:
            with connection.begin():
                allow(connection, None)  # another upgrade, or a large table, takes what it takes
                connection.execute(select(func.pg_advisory_xact_lock(LOCK_KEY)))
                yield connection


@contextmanager
def _opened(url: str | URL | Database) -> Iterator[Database]:
    if isinstance(url, Database):
        yield url
        return
    database = Database(url, pool_size=1)
    try:
        yield database
    finally:
        database.dispose()
