"""Clients that begin a request and do not go on, against a real server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import uvicorn

from tuner.cli import connections
from tuner.cli.serving import bound, running

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"


async def application(scope: dict, receive, send) -> None:  # type: ignore[no-untyped-def,type-arg]  # ASGI
    """Answers ``/early`` at once, else with the body, slowly."""
    if scope["type"] != "http":
        return
    body = b""
    while scope["path"] != "/early" and len(body) < 4:
        body += (await receive())["body"]
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]}
    )
    for _ in range(2):
        await send({"type": "http.response.body", "body": body or b"soon", "more_body": True})
        await asyncio.sleep(0.5)
    await send({"type": "http.response.body"})


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.2)
    config = uvicorn.Config(
        application,
        http=connections.PatientProtocol,
        log_config=None,
        lifespan="off",
        timeout_keep_alive=600,
        timeout_graceful_shutdown=1,
    )
    with (
        bound("127.0.0.1", 0) as listener,
        running(uvicorn.Server(config), listener, threading.Event()),
    ):
        yield listener.getsockname()


@pytest.mark.parametrize("said", [b"", b"GET", HEAD, b"GET / HTTP/1.1\r\nA: " + b"b" * 5000])
def test_connections_whose_headers_do_not_end_are_closed(
    address: tuple[str, int], said: bytes
) -> None:
    with ExitStack() as stack:
        several = [stack.enter_context(socket.create_connection(address, 60)) for _ in range(20)]
        for connection in several:
            connection.sendall(said)
        assert [connection.recv(100) for connection in several] == [b""] * 20


def test_a_request_that_is_being_answered_is_not_cut(address: tuple[str, int]) -> None:
    """However long its body takes to come, and its answer to go."""
    with socket.create_connection(address, 60) as connection:
        connection.sendall(HEAD + b"\r\nab")
        connection.settimeout(0.6)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(60)
        connection.sendall(b"cd")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\nabcdabcd"), "and then the connection is idle, and closed"


def test_what_is_left_of_a_body_is_not_awaited_for_ever(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 60) as connection:
        connection.sendall(HEAD.replace(b"/", b"/early", 1) + b"\r\nab")
        assert connection.makefile("rb").read().endswith(b"soonsoon")
