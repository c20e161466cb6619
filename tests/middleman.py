"""Between a program and its PostgreSQL server: a connection over TCP that can fall silent.

As after a failover, or behind a firewall that forgot it: what is sent is acknowledged, and never
answered. Connections made afterwards work.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import make_url


class Middleman:
    """Passes bytes on, between a port of its own and a server's address.

    Args:
        url: A database; its server may listen on a Unix socket.
    """

    def __init__(self, url: str) -> None:
        self._upstream = make_url(url)
        self._hush = threading.Event()
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The same database, by way of here."""
        port = self._listener.getsockname()[1]
        # A host in the query, as a Unix socket has it, would win over the one in its place.
        via = self._upstream.difference_update_query(["host", "port"]).set(
            host="127.0.0.1", port=port
        )
        return via.render_as_string(hide_password=False)

    def silence(self) -> None:
        """From now on nothing passes on the connections that there are."""
        self._hush.set()
        self._hush = threading.Event()

    def close(self) -> None:
        """Closes all connections."""
        self._ended.set()
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._ended.is_set():
                near, _ = self._listener.accept()
                far = self._connected()
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._pass_on, args=(source, sink, self._hush), daemon=True
                    ).start()

    def _connected(self) -> socket.socket:
        url = self._upstream
        host = str(url.query.get("host") or url.host or "127.0.0.1")
        port = int(str(url.query.get("port") or url.port or 5432))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        far = socket.socket(socket.AF_UNIX)
        far.connect(f"{host}/.s.PGSQL.{port}")
        return far

    def _pass_on(self, source: socket.socket, sink: socket.socket, hush: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if hush.is_set():
                    self._ended.wait()  # not even that it was closed is passed on
                    return
                sink.sendall(data)
        if hush.is_set():
            self._ended.wait()
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def between(url: str) -> Iterator[Middleman]:
    """A middleman in front of a database, until the block ends."""
    man = Middleman(url)
    try:
        yield man
    finally:
        man.close()
