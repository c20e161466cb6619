"""A connection to one server, and its answers as values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Self, TypeVar

import httpx
from pydantic import TypeAdapter

from tuner.service import Page
from tuner.settings import Settings
from tuner.transport import Transport, understood

T = TypeVar("T")
PAGE = 500


class Connection:
    """What all parts of the client share. Threads may share it.

    Args:
        url: The server; by default ``TUNER_URL``, else http://127.0.0.1:8420.
        token: What to show; by default ``TUNER_TOKEN``.
        inner: Another way to reach the server, for an application in the same process.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        inner: httpx.BaseTransport | None = None,
    ) -> None:
        settings = Settings.read(url=url, token=token)
        self.url = settings.url.rstrip("/")
        self._transport = Transport(self.url, settings.secret, inner=inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def _read(self, kind: type[T], method: str, path: str, **request: Any) -> T:
        return self._value(kind, self._transport.call(method, path, **request))

    def _value(self, kind: type[T], answer: httpx.Response) -> T:
        with understood(self.url):
            found: T = _parser(kind).validate_json(answer.content)
        return found

    def _pages(self, kind: type[T], path: str, query: Mapping[str, Any]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            answer = self._transport.call(
                "GET", path, params={**query, "cursor": cursor, "limit": PAGE}
            )
            page: Page[T] = self._value(Page[kind], answer)  # type: ignore[valid-type]  # at run time
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return


_parser: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""Building a validator takes milliseconds, using one microseconds."""
