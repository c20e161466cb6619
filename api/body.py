"""A request's body as a file that is read while it arrives."""

from __future__ import annotations

from anyio import from_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from tuner.errors import Unavailable


class Body:
    """Reads the body piece by piece, in the thread of a synchronous route.

    FastAPI reads a declared body whole, and before it looks at the token; this one is read when the
    route wants it.
    """

    def __init__(self, request: Request) -> None:
        self._chunks = request.stream().__aiter__()
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while not self._rest:
            chunk = from_thread.run(self._next)
            if chunk is None:
                return b""
            self._rest = chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._chunks, None)
        except ClientDisconnect as error:
            raise Unavailable("the connection broke before all of the body was there") from error
