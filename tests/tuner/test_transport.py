"""Against a real HTTP server on the loopback that answers as it is told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tuner import __version__, errors
from tuner.errors import Conflict, InvalidInput, LeaseLost, TunerError, Unavailable
from tuner.protocol import (
    Heartbeat,
    Leased,
    LeaseRequest,
    Measured,
    Report,
    SlotReport,
    WorkerHello,
)
from tuner.transport import Transport
from tuner.worker.http import HttpGateway


class Script(ThreadingHTTPServer):
    """Gives one prepared answer a request; the last one again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, object]]] = [(200, {})]
        self.seen: list[tuple[str, str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Script

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.server.seen.append((self.command, self.path, body, headers))
        status, answer = self.server.answers[0]
        if len(self.server.answers) > 1:
            self.server.answers.pop(0)
        if status == 0:  # the connection breaks before the answer
            self.close_connection = True
            return
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/problem+json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_DELETE = do_PATCH = do_GET  # noqa: N815  (names the base class gives)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Script]:
    script = Script()
    thread = threading.Thread(target=script.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield script
    script.shutdown()
    script.server_close()
    thread.join()


@pytest.fixture
def transport(server: Script) -> Iterator[Transport]:
    made = Transport(server.url + "/prefix/", "secret", attempts=3)
    yield made
    made.close()


def test_the_token_the_prefix_and_the_query_travel(server: Script, transport: Transport) -> None:
    transport.call("GET", "studies", params={"state": "running", "cursor": None})
    method, path, _, headers = server.seen[0]
    assert (method, path) == ("GET", "/prefix/api/v1/studies?state=running")
    assert headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [0, 502, 503, 504])
def test_what_may_be_repeated_is_repeated(
    server: Script, transport: Transport, status: int
) -> None:
    server.answers = [(status, {}), (status, {}), (200, {"id": 1})]
    assert transport.call("GET", "studies/1").json() == {"id": 1}
    assert len(server.seen) == 3


def test_what_must_not_be_repeated_is_sent_once(server: Script, transport: Transport) -> None:
    server.answers = [(503, {"code": "unavailable", "detail": "the database is busy"})]
    with pytest.raises(Unavailable, match="the database is busy"):
        transport.call("POST", "studies", json={})
    assert len(server.seen) == 1


def test_attempts_are_bounded(server: Script, transport: Transport) -> None:
    server.answers = [(503, {})]
    with pytest.raises(Unavailable):
        transport.call("GET", "studies")
    assert len(server.seen) == 3


def test_nobody_listening_is_said_plainly(server: Script) -> None:
    transport = Transport("http://127.0.0.1:1", attempts=1)
    with pytest.raises(Unavailable, match="is `tuner serve` running"):
        transport.call("GET", "studies")
    transport.close()


def every_error() -> list[type[TunerError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, TunerError)
    ]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)
def test_every_error_of_the_tree_comes_back_as_itself(
    server: Script, transport: Transport, kind: type[TunerError]
) -> None:
    problem = {"code": kind.code, "detail": "because", "status": 409, "field": "space.lr.low"}
    server.answers = [(409, problem)]
    with pytest.raises(kind) as caught:
        transport.call("POST", "studies", json={})
    assert type(caught.value) is kind
    assert str(caught.value) == "because"
    assert caught.value.facts["field"] == "space.lr.low"
    if isinstance(caught.value, InvalidInput):
        assert caught.value.field == "space.lr.low"


def test_an_answer_of_a_stranger_is_still_an_error(server: Script, transport: Transport) -> None:
    server.answers = [(418, {"hello": 1})]
    with pytest.raises(TunerError, match="HTTP status 418"):
        transport.call("GET", "studies")


@pytest.mark.parametrize("url", ["", "tuner.example", "ftp://host", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="url"):
        Transport(url)


def test_the_gateway_repeats_a_report_whose_answer_was_lost(server: Script) -> None:
    gateway = HttpGateway(Transport(server.url, attempts=3))
    verdict = {"trial_id": 1, "action": "continue", "until": 2}
    server.answers = [(0, {}), (200, {"verdicts": [verdict], "leased": [], "drain": False})]
    slot = SlotReport(
        trial_id=1, token="t", measurements=[Measured(step=1, metrics={"loss": float("nan")})]
    )
    answer = gateway.report(4, Report(slots=[slot], refill=1))
    assert answer.verdicts[0].action == "continue"
    assert [path for _, path, _, _ in server.seen] == ["/api/v1/workers/4/report"] * 2
    bodies = {body for _, _, body, _ in server.seen}
    assert len(bodies) == 1
    assert Report.model_validate_json(bodies.pop()).slots[0].token == "t"
    gateway.close()


def test_the_gateway_speaks_all_five_calls(server: Script) -> None:
    gateway = HttpGateway(Transport(server.url, attempts=1))
    server.answers = [(200, {"worker_id": 4, "lease_seconds": 30, "heartbeat_seconds": 5})]
    assert gateway.register(WorkerHello(name="w", tasks=["digits"])).worker_id == 4
    server.answers = [(200, {"leased": []})]
    assert gateway.lease(4, LeaseRequest(k=2)).leased == []
    server.answers = [(200, {"drop": [7]})]
    assert gateway.heartbeat(4, Heartbeat(held={7: "t"})).drop == [7]
    server.answers = [(204, {})]
    gateway.leave(4)
    assert [(method, path) for method, path, _, _ in server.seen] == [
        ("POST", "/api/v1/workers"),
        ("POST", "/api/v1/workers/4/lease"),
        ("POST", "/api/v1/workers/4/heartbeat"),
        ("DELETE", "/api/v1/workers/4"),
    ]
    server.answers = [(409, {"code": "lease_lost", "detail": "trial 7 is no longer held"})]
    with pytest.raises(LeaseLost) as caught:
        gateway.heartbeat(4, Heartbeat())
    assert isinstance(caught.value, Conflict)
    gateway.close()


def test_what_a_newer_server_says_besides_is_passed_over(server: Script) -> None:
    gateway = HttpGateway(Transport(server.url, attempts=1))
    leased = Leased(
        **{"trial_id": 1, "study_id": 1, "number": 0, "attempt": 1, "token": "t", "task": "digits"},
        **{"task_params": {}, "config": {}, "seed": 0, "data_seed": 0, "start": 0, "until": 4},
        **{"max_step": 4, "metrics": ["val_loss"]},
    )
    server.answers = [(200, {"leased": [{**leased.model_dump(), "newer": {"x": 1}}], "new": 1})]
    assert gateway.lease(4, LeaseRequest(k=1)).leased == [leased]
    gateway.close()


def test_a_worker_tells_an_older_server_by_a_field_that_it_does_not_know(server: Script) -> None:
    gateway = HttpGateway(Transport(f"{server.url}/prefix", attempts=1))
    problem = {"code": "invalid_input", "detail": "forms: there is no such field", "field": "forms"}
    server.answers = [(422, problem), (200, {"status": "ok", "version": "0.0.9"})]
    with pytest.raises(InvalidInput, match=r"^forms: the server .* tuner 0\.0\.9 ") as caught:
        gateway.register(WorkerHello(name="w", tasks=["digits"]))
    assert f"a worker of tuner {__version__}" in str(caught.value)
    assert server.seen[-1][:2] == ("GET", "/prefix/healthz")
    server.answers = [(422, problem), (404, {})]
    with pytest.raises(InvalidInput, match="is of another version"):
        gateway.register(WorkerHello(name="w", tasks=["digits"]))
    server.answers = [(422, problem | {"detail": "name: is missing", "field": "name"})]
    with pytest.raises(InvalidInput, match=r"^name: is missing"):
        gateway.register(WorkerHello(name="w", tasks=["digits"]))
    gateway.close()
