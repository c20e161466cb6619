"""Connections that give up on silent servers, locks and statements; and what may take longer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import insert, text, update

from tests.middleman import Middleman, between
from tuner.errors import Locked, Unavailable
from tuner.storage import engine, migrate, postgres, studies
from tuner.storage.engine import Database
from tuner.storage.models import Study
from tuner.storage.postgres import allow

pytestmark = pytest.mark.parametrize("dialect", ["postgresql"])


@pytest.fixture
def man(database_url: str) -> Iterator[Middleman]:
    with between(database_url) as found:
        yield found


@pytest.fixture
def distant(man: Middleman) -> Iterator[Database]:
    """The database by way of a middleman, whose connections are each asked whether they live."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "FRESH_SECONDS", 0.0)
        patch.setattr(postgres, "PING_SECONDS", 0.3)
        patch.setattr(postgres, "ANSWER_SECONDS", 1.0)
        patch.setattr(postgres.Answered, "patience_seconds", 1.0)
        opened = Database(man.url)
        yield opened
        opened.dispose()


def backend(database: Database) -> int:
    with database.session() as session:
        return session.execute(text("SELECT pg_backend_pid()")).scalar_one()


def setting(database: Database, name: str) -> str:
    with database.session() as session:
        return session.execute(text(f"SHOW {name}")).scalar_one()


@contextmanager
def held(database_url: str, statement: str) -> Iterator[psycopg.Connection]:
    """Somebody's transaction, left open."""
    with psycopg.connect(database_url.replace("+psycopg", "")) as other:
        other.execute(statement)
        yield other
        other.rollback()


def test_an_idle_connection_that_fell_silent_is_replaced(distant: Database, man: Middleman) -> None:
    before = backend(distant)
    man.silence()
    assert backend(distant) != before


def test_a_statement_that_is_never_answered_is_unavailable(
    distant: Database, man: Middleman
) -> None:
    def ask() -> None:
        with distant.session() as session:
            session.execute(text("SELECT 1"))
            man.silence()
            session.execute(text("SELECT 1"))

    def ask_directly() -> None:
        with distant.brief() as direct:
            man.silence()
            direct.run("SELECT 1")

    for way in (ask, ask_directly):
        with pytest.raises(Unavailable):
            way()
    assert backend(distant)


def test_a_transaction_whose_end_is_never_answered_is_unavailable(
    distant: Database, man: Middleman
) -> None:
    def write() -> None:
        with distant.write() as session:
            session.execute(text("SELECT 1"))
            man.silence()

    with pytest.raises(Unavailable):
        write()
    assert backend(distant)


def test_tcp_is_asked_to_notice_a_host_that_is_gone(distant: Database) -> None:
    with distant.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with socket.socket(fileno=socket.dup(driver.fileno())) as there:
            found = [
                there.getsockopt(socket.IPPROTO_TCP, name)
                for name in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            ]
            alive = there.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert (alive, found) == (1, [5, 3, 3, 15_000])


def test_the_server_bounds_locks_statements_and_pauses(database: Database) -> None:
    assert setting(database, "lock_timeout") == "5s"
    assert setting(database, "statement_timeout") == "30s"
    assert setting(database, "idle_in_transaction_session_timeout") == "2min"


def test_what_the_url_says_wins(database_url: str) -> None:
    own = Database(
        engine.parse_url(database_url).update_query_dict(
            {"options": "-c lock_timeout=7s -c search_path=pg_catalog", "application_name": "mine"}
        )
    )
    assert setting(own, "lock_timeout") == "7s"
    assert setting(own, "statement_timeout") == "30s"
    assert setting(own, "search_path") == "pg_catalog"
    assert setting(own, "application_name") == "mine"
    own.dispose()


def test_a_lock_that_nobody_lets_go_of_is_locked(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOCK_SECONDS", 0.2)
    database = Database(database_url)
    with database.write() as session:
        session.execute(
            insert(Study).values(id=1, name="a", directions=["minimize"], created_at=text("now()"))
        )
    with held(database_url, "SELECT 1 FROM studies FOR UPDATE"):
        with pytest.raises(Locked), database.write() as session:
            session.execute(update(Study).values(name="b"))
        with pytest.raises(Locked), database.brief() as direct:
            direct.run("UPDATE studies SET name = 'b'")
    with database.write() as session:
        session.execute(update(Study).values(name="b"))
    database.dispose()


def test_a_statement_that_takes_too_long_is_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.2)
    database = Database(database_url)
    with pytest.raises(Unavailable, match="too long"), database.session() as session:
        session.execute(text("SELECT pg_sleep(30)"))
    database.dispose()


def test_a_transaction_that_was_left_open_is_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "IDLE_SECONDS", 0.2)
    database = Database(database_url)

    def write() -> None:
        with database.write() as session:
            session.execute(text("SELECT 1"))
            time.sleep(1.0)

    with pytest.raises(Unavailable):
        write()
    assert backend(database)
    database.dispose()


def test_what_is_allowed_longer_takes_longer_and_the_next_one_does_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATEMENT_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(postgres, name, 1.0)
    database = Database(database_url, pool_size=1)
    with database.write() as session:
        allow(session.connection(), None)
        monkeypatch.setattr(postgres.Answered, "patience_seconds", 1.0)
        session.execute(text("SELECT pg_sleep(1.5)"))
        time.sleep(1.5)
        session.execute(text("SELECT 1"))
    with pytest.raises(Unavailable), database.write() as session:
        session.execute(text("SELECT pg_sleep(30)"))
    database.dispose()


def test_an_upgrade_waits_for_another_however_long(
    bare_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCK_SECONDS", "STATEMENT_SECONDS"):
        monkeypatch.setattr(postgres, name, 0.2)
    revisions: list[str] = []
    lock = f"SELECT pg_advisory_xact_lock({migrate.LOCK_KEY})"
    with held(bare_database_url, lock) as other:
        thread = threading.Thread(
            target=lambda: revisions.append(migrate.upgrade(bare_database_url))
        )
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
        other.rollback()
    thread.join()
    assert revisions == [migrate.head()]


def test_to_delete_a_study_may_take_longer(database: Database) -> None:
    with database.write() as session:
        studies.delete(session, 1)
        assert session.execute(text("SHOW statement_timeout")).scalar_one() == "10min"
    assert setting(database, "statement_timeout") == "30s"
