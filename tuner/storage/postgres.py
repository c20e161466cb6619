"""Connections to PostgreSQL that give up: on locks, on statements, on a server that says nothing.

A server whose host is gone breaks no connection: it only stops answering. TCP notices where packets
are not acknowledged; where something in between acknowledges and never answers, only a clock of our
own does. The server ends each statement within a time of its own, so whoever has heard nothing for
longer than that hears nothing any more.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from sqlalchemy import Connection, Dialect, Engine, event, func, select

LOCK_SECONDS = 5.0
"""How long a statement waits for what another transaction has locked."""
STATEMENT_SECONDS = 30.0
"""How long the server works on one statement; by then whoever asked has given up."""
IDLE_SECONDS = 120.0
"""How long a transaction may pause with what it locked, as in a process that was frozen."""
ANSWER_SECONDS = STATEMENT_SECONDS + 5.0
"""How long the server may say nothing before the connection counts as lost."""
PING_SECONDS = 5.0
"""The same, for a question that takes the server no time."""

T = TypeVar("T")


class Answered(psycopg.Connection[Any]):
    """A connection that is closed when the server does not answer.

    Attributes:
        patience_seconds: How long one statement's answer may take; None: as long as it likes.
    """

    patience_seconds: float | None = ANSWER_SECONDS

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Waits for the server; every statement comes through here."""
        try:
            return super().wait(gen, interval, timeout or self.patience_seconds)
        except errors._WaitTimeout as error:
            if timeout:
                raise
            self.pgconn.finish()  # nobody would know where in the conversation it is
            raise psycopg.OperationalError(
                f"the server has not answered for {self.patience_seconds:g} s"
            ) from error


def _session_settings() -> str:
    bounds = {
        "lock_timeout": LOCK_SECONDS,
        "statement_timeout": STATEMENT_SECONDS,
        "idle_in_transaction_session_timeout": IDLE_SECONDS,
    }
    return " ".join(f"-c {name}={1000 * seconds:.0f}" for name, seconds in bounds.items())


def _connect(_dialect: Dialect, _record: object, given: list[Any], named: dict[str, Any]) -> Any:
    """Connects; what the URL says comes after what we say, and wins."""
    defaults = {
        "application_name": "tuner",
        "connect_timeout": 10,
        # Of a peer that is gone, an idle connection hears after 5 + 3 * 3 s.
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        # And one that has sent something, when it has not been acknowledged for so many ms.
        "tcp_user_timeout": 15_000,
    }
    # Sent with the greeting, so that they cost no statement.
    options = f"{_session_settings()} {named.get('options', '')}".strip()
    return Answered.connect(*given, **{**defaults, **named, "options": options})


def bound(engine: Engine) -> None:
    """Has the connections of an engine give up."""
    event.listen(engine, "do_connect", _connect)


def allow(connection: Connection, seconds: float | None) -> None:
    """Gives a transaction longer, for its locks, its statements and its pauses.

    Until its end, or until the connection goes back to the pool. Nothing on SQLite.

    Args:
        connection: The transaction.
        seconds: How long each may take; None: as long as it likes.
    """
    if connection.dialect.name != "postgresql":
        return
    milliseconds = "0" if seconds is None else f"{1000 * seconds:.0f}"
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    connection.execute(select(*(func.set_config(name, milliseconds, True) for name in names)))
    driver = cast("Answered", connection.connection.driver_connection)
    driver.patience_seconds = None if seconds is None else seconds + PING_SECONDS
