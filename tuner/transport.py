"""HTTP as the client and the worker speak it: retries, the token, and problems made errors again.

A server answers with ``application/problem+json``; here it becomes the class of
``tuner.errors`` that the server raised, so that callers catch the same errors on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from tuner import __version__
from tuner.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    TooLarge,
    TooManyRequests,
    TunerError,
    Unauthorized,
    Unavailable,
    remade,
)

API = "/api/v1"
_PASSING = frozenset({502, 503, 504})
_BY_STATUS: dict[int, type[TunerError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: TooLarge,
    422: InvalidInput,
    429: TooManyRequests,
}


class Transport:
    """A connection to one server. Threads may share it.

    Args:
        url: The server, such as ``http://127.0.0.1:8420``; a path prefix is kept.
        token: Sent as a bearer token, if given.
        timeout_seconds: For one answer; connecting has 5 s.
        attempts: How often a call that may be repeated is tried before ``Unavailable`` is raised.
        patience_seconds: After this long no further attempt is begun.
        inner: Another way to reach the server, such as an application in the same process.

    Raises:
        InvalidInput: ``url`` is not an http(s) address.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_seconds: float = 60.0,
        attempts: int = 5,
        patience_seconds: float = 30.0,
        inner: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            base = httpx.URL(url.rstrip("/") + API + "/")
        except httpx.InvalidURL as error:
            raise InvalidInput("url", f"{url!r} is not an address: {error}") from error
        if base.scheme not in ("http", "https") or not base.host:
            raise InvalidInput("url", f"expected http://HOST:PORT, got {url!r}")
        self.url = url.rstrip("/")
        headers = {"user-agent": f"tuner/{__version__}", "accept": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._http = httpx.Client(
            base_url=base,
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=5.0),
            transport=inner,
            trust_env=inner is None,
        )
        self._attempts = attempts
        self._patience_seconds = patience_seconds

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: str | bytes | None = None,
        params: Mapping[str, Any] | None = None,
        repeatable: bool | None = None,
        named: bool = False,
    ) -> httpx.Response:
        """One request and its good answer.

        Args:
            method: An HTTP method.
            path: Below ``/api/v1/``, without a leading slash, or a whole address.
            json: A body to encode.
            content: A body that is JSON already.
            params: The query; values that are None are left out.
            repeatable: Whether a second request does no harm; by default, whether it is a GET.
            named: Whether to give the request a name, by which the server knows it when it is
                repeated, so that a second one does no harm.

        Raises:
            Unavailable: No answer, or one that says to come back, after the last attempt.
            TunerError: What the server refused with, as the class it raised.
        """
        headers = {} if content is None else {"content-type": "application/json"}
        if named:
            headers["idempotency-key"] = uuid4().hex
        query = {key: value for key, value in (params or {}).items() if value is not None}

        def once() -> httpx.Response:
            with reached(self.url):
                answer = self._http.request(
                    method, path, json=json, content=content, params=query, headers=headers
                )
            if answer.is_success:
                return answer
            raise error_of(answer)

        if repeatable is None:
            repeatable = named or method == "GET"
        return self._retrying()(once) if repeatable else once()

    def stream(
        self, path: str, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, str]
    ) -> Iterator[str]:
        """The lines of an answer that goes on, as they come; ends when the server ends it."""
        query = {key: value for key, value in (params or {}).items() if value is not None}
        silence = httpx.Timeout(60.0, connect=5.0)
        with (
            reached(self.url),
            self._http.stream(
                "GET", path, params=query, headers=dict(headers), timeout=silence
            ) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise error_of(answer)
            yield from answer.iter_lines()

    def download(self, path: str, target: Path) -> None:
        """Writes an answer of any length into a file, from the beginning at each attempt."""

        def once() -> None:
            with (
                reached(self.url),
                self._http.stream("GET", path, timeout=_LONG) as answer,
                target.open("wb") as file,
            ):
                if not answer.is_success:
                    answer.read()
                    raise error_of(answer)
                for chunk in answer.iter_bytes():
                    file.write(chunk)

        self._retrying()(once)

    def upload(self, path: str, file: BinaryIO, *, params: Mapping[str, Any]) -> httpx.Response:
        """Sends a file of any length as the body of a POST, which is not repeated."""
        headers = {"content-type": "application/octet-stream"}
        with reached(self.url):
            answer = self._http.request(
                "POST", path, content=file, params=params, headers=headers, timeout=_LONG
            )
        if answer.is_success:
            return answer
        raise error_of(answer)

    def _retrying(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type((Unavailable, TooManyRequests)),
            stop=stop_after_attempt(self._attempts) | stop_after_delay(self._patience_seconds),
            wait=_wait,
            reraise=True,
        )


_LONG = httpx.Timeout(600.0, connect=5.0)
"""For large files, which a server looks into before it answers."""
_BACK_OFF = wait_random_exponential(multiplier=0.1, max=5.0)


def _wait(state: RetryCallState) -> float:
    """The server's own word on when to come back, else a growing random pause."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.facts.get("retry_after_seconds") if isinstance(error, TunerError) else None
    pause = _BACK_OFF(state)
    return max(pause, min(float(asked), 30.0)) if isinstance(asked, int | float) else pause


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Turns what httpx raises when the server cannot be reached into ``Unavailable``."""
    try:
        yield
    except httpx.ConnectError as error:
        raise Unavailable(f"no server answers at {url}: is `tuner serve` running?") from error
    except httpx.TransportError as error:
        raise Unavailable(f"the connection to {url} broke: {error or type(error).__name__}") from (
            error
        )


@contextmanager
def understood(url: str) -> Iterator[None]:
    """Turns what the reading of an answer raises into a word on where it comes from."""
    try:
        yield
    except ValueError as error:  # no JSON, or pydantic's own: a field is missing or of another type
        what = " ".join(str(error).split())[:200]
        raise TunerError(
            f"what {url} answered is not what tuner {__version__} understands, as if it were of "
            f"another version, or no tuner: {what}"
        ) from error


def error_of(answer: httpx.Response) -> TunerError:
    """The error that an answer stands for, of the class that the server raised if it is known."""
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    message = problem.get("detail") or problem.get("title") or f"HTTP status {answer.status_code}"
    known = {"type", "title", "status", "detail", "instance", "code", "facts"}
    facts = {key: value for key, value in problem.items() if key not in known}
    if isinstance(problem.get("facts"), dict):
        facts |= problem["facts"]
    after = answer.headers.get("retry-after", "")
    if after.isdigit():
        facts.setdefault("retry_after_seconds", int(after))
    status = answer.status_code
    kind = _classes().get(str(problem.get("code"))) or (
        Unavailable if status in _PASSING else _BY_STATUS.get(status, TunerError)
    )
    return remade(kind, str(message), facts)


def _classes() -> dict[str, type[TunerError]]:
    found: dict[str, type[TunerError]] = {}
    pending: list[type[TunerError]] = [TunerError]
    while pending:
        kind = pending.pop()
        found[kind.code] = kind
        pending.extend(kind.__subclasses__())
    return found
