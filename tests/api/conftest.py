"""A real server on a free loopback port, over a real database, for every test of the room."""

from __future__ import annotations

import functools
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from tests.databases import _sqlite_template
from tuner.service import Context, ServiceSettings, tokens
from tuner.settings import Settings


@functools.cache
def authorities() -> ssl.SSLContext:
    """Whom clients trust: read once, because each of many clients would take as long as a test."""
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class Server:
    """One that runs: where it is, what it serves, and who may ask."""

    url: str
    context: Context
    admin: str | None
    """The secret of a token with every scope; None without auth."""

    def client(self, token: str | None = None, **options: object) -> httpx.Client:
        """A connection that shows the admin's token unless told otherwise."""
        secret = self.admin if token is None else token
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        options.setdefault("timeout", 60.0)  # CI machines stall; a hang still fails
        options.setdefault("verify", authorities())
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, **options)  # type: ignore[arg-type]  # passed on

    def token(self, *scopes: str) -> str:
        """The secret of a new token with these scopes."""
        return tokens.create_token(self.context, "-".join(scopes), scopes).secret


Start = Callable[..., AbstractContextManager[Server]]


@contextmanager
def running(
    folder: Path,
    *,
    auth: bool = True,
    lease_seconds: float = 30.0,
    webhook_hosts: tuple[str, ...] = (),
    **settings: object,
) -> Iterator[Server]:
    """A server until the block ends."""
    path = folder / "tuner.sqlite"
    if not path.exists():
        path.write_bytes(_sqlite_template())
    told = ServiceSettings(home=folder, lease_seconds=lease_seconds, webhook_hosts=webhook_hosts)
    context = Context.open(f"sqlite:///{path}", settings=told)
    app = create_app(context, Settings.read(home=folder, **settings), auth=auth)
    try:
        with listening(app) as url:
            admin = tokens.create_token(context, "admin", ["admin"]).secret if auth else None
            yield Server(url, context, admin)
    finally:
        context.close()


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The address of an application until the block ends."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, port=0, log_config=None, timeout_graceful_shutdown=1, proxy_headers=False
        )
    )
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers with settings of the test's own; they end with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(tmp_path, **settings))


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as connected:
        yield connected


@pytest.fixture
def spec() -> dict[str, object]:
    """A small study that the built-in digits task can train."""
    return {
        "name": "digits-adamw",
        "task": {"name": "digits"},
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "space": {
            "optimizer": "adamw",
            "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
            "batch_size": {"type": "categorical", "choices": [16, 32, 64]},
        },
        "sampler": {"name": "random"},
        "pruner": {"name": "none"},
        "budget": {"trials": 6, "epochs": 3},
    }
