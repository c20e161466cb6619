"""How a script speaks to its worker: a Unix socket, one line of JSON each way.

``{"step": 3, "metrics": {"loss": 0.31}}`` is answered by ``{"stop": false}``, or by
``{"error": "...", "field": "metrics"}``. ``tuner.trial`` is the other end; any language can be.
"""

from __future__ import annotations

import json
import selectors
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import trial

LONGEST_LINE = 1 << 20
MOST_CONNECTIONS = 64


@dataclass(frozen=True, eq=False)
class Said:
    """What a script says of one step, waiting for its answer."""

    step: int
    metrics: dict[str, float]
    _connection: socket.socket

    def answer(self, *, stop: bool) -> None:
        """Says whether to go on."""
        _send(self._connection, {"stop": stop})

    def refuse(self, field: str, message: str) -> None:
        """Says what is wrong."""
        _send(self._connection, {"error": message, "field": field})


class Channel:
    """The worker's end, for one run of a script.

    Args:
        path: Where the socket is made; only this user may enter its folder.
    """

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(MOST_CONNECTIONS)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._heard: dict[socket.socket, bytes] = {}

    def hear(self, seconds: float) -> list[Said]:
        """What was said by now, after waiting at most so long for anything to be said."""
        said: list[Said] = []
        ready = [key.fileobj for key, _ in self._selector.select(seconds)]
        for connection in ready:
            if connection is not self._listener:
                said += self._read(connection)  # type: ignore[arg-type]  # only sockets are registered
        if self._listener in ready:  # last: those that have ended by now make room
            self._accept()
        return said

    def close(self) -> None:
        """Ends it; who waits for an answer is told that nobody is there."""
        for connection in list(self._heard):
            self._drop(connection)
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._heard) >= MOST_CONNECTIONS:
            connection.close()
            return
        connection.settimeout(1.0)
        self._heard[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> list[Said]:
        try:
            data = connection.recv(1 << 16)
        except OSError:
            data = b""
        lines = (self._heard[connection] + data).split(b"\n")
        self._heard[connection] = lines.pop()
        said = []
        for line in lines:
            try:
                step, metrics = _parsed(line)
            except ValueError as error:
                _send(connection, {"error": str(error), "field": ""})
            else:
                said.append(Said(step, metrics, connection))
        if not data or len(self._heard[connection]) > LONGEST_LINE:
            self._drop(connection)
        return said

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._heard[connection]
        connection.close()


def _send(connection: socket.socket, content: dict[str, Any]) -> None:
    with suppress(OSError):  # whoever asked is gone
        connection.sendall(json.dumps(content).encode() + b"\n")


def _parsed(line: bytes) -> tuple[int, dict[str, float]]:
    """Step and metrics of a line."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("this is no line of JSON") from error
    step = content.get("step") if isinstance(content, dict) else None
    metrics = content.get("metrics") if isinstance(content, dict) else None
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step < 2**31:
        raise ValueError('expected {"step": 1, "metrics": {"loss": 0.3}} with a step from 1')
    if not isinstance(metrics, dict) or not 1 <= len(metrics) <= trial.MOST_METRICS:
        raise ValueError(f"metrics holds 1 to {trial.MOST_METRICS} numbers by name")
    for name, value in metrics.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 1 <= len(name) <= trial.LONGEST_NAME:
            raise ValueError(f"metric {name[:50]!r} is no number")
    return step, {name: float(value) for name, value in metrics.items()}
