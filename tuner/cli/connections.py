"""How long a client may take over the beginning of a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PATIENCE_SECONDS = 20.0
"""From the connection, or a request's first byte, to the end of its headers; and for what is left
of a body once the request has been answered."""


class PatientProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, which alone would keep a connection whose headers never end for ever.

    A few thousand of them take all the files that a process may open. A body that somebody known
    sends may take its time: no request that is being answered is cut.
    """

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """A client is there, and should say something."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._expect_nothing()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        """From here on the application decides what to wait for."""
        self._expect_nothing()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Uvicorn ends the wait for the next request when the rest of this one's body comes."""
        super().on_response_complete()
        self._expect()

    def _expect(self) -> None:
        self._expect_nothing()
        self._due = self.loop.call_later(PATIENCE_SECONDS, self.timeout_keep_alive_handler)

    def _expect_nothing(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
