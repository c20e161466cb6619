"""A cable between a browser and a server that a test can cut and mend."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Cable:
    """Forwards connections to a server's port; ``cut`` breaks those there are and refuses more."""

    def __init__(self, url: str) -> None:
        self._port = urlsplit(url).port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._whole = True
        self._open: set[socket.socket] = set()
        self._serving: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Nothing gets through from here on."""
        with self._lock:
            self._whole = False
            ends = set(self._open)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """New connections work again."""
        self._whole = True

    def close(self) -> None:
        """Cuts it for good."""
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._thread, *self._serving):
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole:
                here.close()
                continue
            thread = threading.Thread(target=self._serve, args=(here,), daemon=True)
            self._serving.append(thread)
            thread.start()

    def _serve(self, here: socket.socket) -> None:
        """One connection, both ways, until either end closes it."""
        with here, socket.create_connection(("127.0.0.1", self._port)) as there:
            with self._lock:
                self._open |= {here, there}
            back = threading.Thread(target=_pump, args=(there, here), daemon=True)
            back.start()
            _pump(here, there)
            back.join()
            with self._lock:
                self._open -= {here, there}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable(url: str) -> Iterator[Cable]:
    """A cable to the server at ``url``, while the block runs."""
    made = Cable(url)
    try:
        yield made
    finally:
        made.close()
