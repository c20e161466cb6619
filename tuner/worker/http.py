"""The gateway over HTTP: the calls of ``tuner.protocol`` to a server elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from tuner import __version__
from tuner.errors import UNKNOWN_FIELD, InvalidInput, TunerError
from tuner.protocol import (
    Heartbeat,
    HeartbeatAnswer,
    LeaseAnswer,
    LeaseRequest,
    Message,
    Registration,
    Report,
    ReportAnswer,
    WorkerHello,
)
from tuner.transport import Transport, understood

AnswerT = TypeVar("AnswerT", bound=Message)


class HttpGateway:
    """A ``tuner.protocol.Gateway`` whose every call is one request, repeated when it got no answer.

    Repeating does no harm: a report is stored once, a heartbeat says the same twice, and a request
    whose answer was lost is given the same trials again.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, hello: WorkerHello) -> Registration:
        """Introduces the worker."""
        return self._post("workers", hello, Registration)

    def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
        """Takes up to ``request.k`` trials."""
        return self._post(f"workers/{worker_id}/lease", request, LeaseAnswer)

    def report(self, worker_id: int, report: Report) -> ReportAnswer:
        """Delivers a round's news."""
        return self._post(f"workers/{worker_id}/report", report, ReportAnswer)

    def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
        """Renews leases."""
        return self._post(f"workers/{worker_id}/heartbeat", beat, HeartbeatAnswer)

    def leave(self, worker_id: int) -> None:
        """Says goodbye; what it still held waits for others."""
        self._transport.call("DELETE", f"workers/{worker_id}", repeatable=True)

    def fetch(self, sha256: str, target: Path) -> None:
        """Downloads an uploaded dataset."""
        self._transport.download(f"datasets/files/{sha256}", target)

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def _post(self, path: str, message: Message, answer: type[AnswerT]) -> AnswerT:
        try:
            response = self._transport.call(
                "POST", path, content=message.model_dump_json(), repeatable=True
            )
        except InvalidInput as error:
            if not error.message.endswith(UNKNOWN_FIELD):
                raise
            raise InvalidInput(
                error.field,
                f"the server at {self._transport.url} is of {self._their_version()} and does not "
                f"know this field, which a worker of tuner {__version__} sends: replace the server "
                "first, then its workers",
            ) from error
        with understood(self._transport.url):
            # A newer server may say more than this worker knows.
            return answer.model_validate_json(response.content, extra="ignore")

    def _their_version(self) -> str:
        url = self._transport.url
        try:
            with understood(url):
                content = self._transport.call("GET", f"{url}/healthz").content
                return f"tuner {_Health.model_validate_json(content, extra='ignore').version}"
        except TunerError:  # a proxy may let workers reach /api/v1 alone
            return "another version"


class _Health(Message):
    version: str
