"""Real databases for tests: a SQLite file, and a PostgreSQL server that the test run starts itself.

Fixtures, each run once per database:

- ``database_url``: a migrated, empty database of its own.
- ``database``: the same, opened; closed after the test.
- ``bare_database_url``: a database without tables.

The server comes from pip's ``pgserver`` and serves all workers of one run on a Unix socket.
``TUNER_TEST_POSTGRES_URL`` names another one, whose user may create databases. With ``CI`` set
PostgreSQL is required; elsewhere its tests are skipped with the reason when it does not start.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from tests.leftovers import RUN_ENV, left_behind, prefix
from tuner.storage import migrate
from tuner.storage.engine import Database, parse_url

SERVER_ENV = "TUNER_TEST_POSTGRES_URL"


def pytest_configure(config: pytest.Config) -> None:
    """Names the run in the first process, so that xdist's workers find the same server."""
    if not hasattr(config, "workerinput"):
        os.environ[RUN_ENV] = str(os.getpid())
        for folder in left_behind():
            _stop(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops the server when the whole run is over."""
    if not hasattr(config, "workerinput"):
        _stop(_folder())


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_url(dialect: str, tmp_path: Path) -> Iterator[str]:
    """A database of its own, with all tables and no rows."""
    if dialect == "sqlite":
        path = tmp_path / "tuner.sqlite"
        path.write_bytes(_sqlite_template())
        yield f"sqlite:///{path}"
        return
    with _postgres_database(_postgres_template()) as url:
        yield url


@pytest.fixture
def bare_database_url(dialect: str, tmp_path: Path) -> Iterator[str]:
    """A database of its own, without tables."""
    if dialect == "sqlite":
        yield f"sqlite:///{tmp_path / 'bare.sqlite'}"
        return
    with _postgres_database("template0") as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.dispose()


@functools.cache
def _sqlite_template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.sqlite"
        migrate.upgrade(f"sqlite:///{path}")
        return path.read_bytes()


@functools.cache
def _postgres_template() -> str:
    name = f"template_{os.getpid()}"
    _admin().execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
    migrate.upgrade(_server().set(database=name))
    return name


@contextmanager
def _postgres_database(template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    _admin().execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        yield _server().set(database=name).render_as_string(hide_password=False)
    finally:
        _admin().execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@functools.cache
def _admin() -> Connection:
    """One connection for all that this process makes and drops; it ends with the server."""
    return create_engine(_server(), isolation_level="AUTOCOMMIT", poolclass=NullPool).connect()


def _server() -> URL:
    try:
        return _started_server()
    except Exception as error:
        reason = f"PostgreSQL does not start here: {error!r}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@functools.cache
def _started_server() -> URL:
    elsewhere = os.environ.get(SERVER_ENV)
    if elsewhere:
        return parse_url(elsewhere)
    folder = _folder()
    # In /tmp itself: the server may run as another user, whom pytest's own folders keep out,
    # and a socket's path may have only about 100 characters.
    folder.mkdir(exist_ok=True)
    server = _pgserver().get_server(folder, cleanup_mode=None)
    url = parse_url(make_url(server.get_uri()))
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            try:  # rows of a test need not survive a power cut
                connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
            except ProgrammingError as error:  # another worker of this run does the same now
                if "concurrent" not in str(error):
                    raise
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    return url


def _pgserver() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that XDG_RUNTIME_DIR is not set; /tmp does as well
        import pgserver  # noqa: PLC0415  (a run without PostgreSQL tests need not have it)
    return pgserver


def postgres_tools() -> Path | None:
    """Where the programs are that fit the server; None: where the shell finds them."""
    if os.environ.get(SERVER_ENV):
        return None
    return Path(_pgserver().__file__).parent / "pginstall" / "bin"


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / prefix("postgres")


def _stop(folder: Path) -> None:
    """Removes the folder, and ends the server in it, if there is one, open transactions or not."""
    try:
        pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGINT)  # PostgreSQL's "fast" shutdown
    except (OSError, ValueError, IndexError):
        pid = None
    for _ in range(100):
        if pid is None or not (folder / "postmaster.pid").exists():
            break
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
