"""A network that breaks: an HTTP proxy that drops answers, and sends requests twice, soon or late.

It keeps the ledger for the workers behind it: what they were told, they were told by it.
"""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.faults.ledger import Ledger
from tuner.protocol import HeartbeatAnswer, LeaseAnswer, Report, ReportAnswer

_CALL = re.compile(r"/api/v1/workers/\d+/(lease|report|heartbeat)\Z")
MOST_KEPT = 64


@dataclass
class Faults:
    """How often each is done to a request that changes something, as a probability.

    Attributes:
        refuse: The connection breaks before the server has heard anything.
        drop: It breaks after the server has acted, before the answer comes.
        twice: The request is sent twice, and the second answer is passed on.
        late: A request of before is sent once more, after this one; nobody hears the answer.
    """

    refuse: float = 0.0
    drop: float = 0.0
    twice: float = 0.0
    late: float = 0.0


class Proxy(ThreadingHTTPServer):
    """Between workers and one server, on a port of its own.

    Args:
        upstream: The server's port.
        faults: What it does, and how often.
        seed: Of its choices.
    """

    daemon_threads = True

    def __init__(self, upstream: int, faults: Faults, seed: int, ledger: Ledger) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.faults = faults
        self.ledger = ledger
        self.injected = 0
        self._rng = random.Random(seed)
        self._kept: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def fate(self, path: str, body: bytes) -> tuple[str, tuple[str, bytes] | None]:
        """What becomes of a request, and an old one to send after it."""
        with self._lock:
            old = None
            if self._kept and self._rng.random() < self.faults.late:
                old = self._rng.choice(self._kept)
                self.injected += 1
            if len(self._kept) < MOST_KEPT:
                self._kept.append((path, body))
            else:
                self._kept[self._rng.randrange(MOST_KEPT)] = (path, body)
            at = self._rng.random()
            for kind in ("refuse", "drop", "twice"):
                at -= getattr(self.faults, kind)
                if at < 0:
                    self.injected += 1
                    return kind, old
            return "pass", old

    def heard(self, path: str, body: bytes, answer: bytes) -> None:
        """A worker has got a good answer."""
        call = _CALL.match(path)
        if call is None:
            return
        if call[1] == "lease":
            self.ledger.given(LeaseAnswer.model_validate_json(answer).leased)
        elif call[1] == "heartbeat":
            self.ledger.dropped(len(HeartbeatAnswer.model_validate_json(answer).drop))
        else:
            self.ledger.answered(
                Report.model_validate_json(body), ReportAnswer.model_validate_json(answer)
            )


class Handler(BaseHTTPRequestHandler):
    """One connection, one request: what breaks breaks for that request only."""

    server: Proxy
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """Whatever the method."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        kind, old = "pass", None
        if self.command == "POST":
            kind, old = self.server.fate(self.path, body)
        if kind == "refuse":
            return
        answer = self._sent(self.path, body)
        if kind == "twice":
            answer = self._sent(self.path, body)
        if answer is not None and kind != "drop":
            status, content_type, content = answer
            if status == 200:
                self.server.heard(self.path, body, content)
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        if old is not None:
            self._sent(*old, method="POST")

    do_POST = do_DELETE = do_PATCH = do_GET  # noqa: N815  (names the base class gives)

    def _sent(
        self, path: str, body: bytes, method: str | None = None
    ) -> tuple[int, str, bytes] | None:
        """What the server answers; None: it cannot be reached."""
        connection = HTTPConnection("127.0.0.1", self.server.upstream, timeout=30)
        try:
            headers = {"content-type": "application/json", "connection": "close"}
            connection.request(method or self.command, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("content-type", ""), answer.read()
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def log_message(self, *args: object) -> None:
        """Says nothing."""
