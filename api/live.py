"""Events as they happen: one reader of the database for all listeners of this process.

However many dashboards are open, the events table is asked once every ``poll_seconds``, and not at
all while nobody listens. A listener that reconnects catches up from the last id it saw.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from tuner import service
from tuner.errors import TunerError
from tuner.logs import Seldom
from tuner.service import Context, EventView

logger = logging.getLogger(__name__)

PAGE = 500
MOST_PENDING = 10_000
"""Events that wait for a slow listener; beyond, it is sent away and catches up by reconnecting."""


class Listener:
    """What one open connection has still to be told."""

    def __init__(self, study_id: int | None) -> None:
        self.study_id = study_id
        self.pending: list[EventView] = []
        self.lost = False
        self.ready = asyncio.Event()

    def offer(self, events: list[EventView]) -> None:
        """Takes the events that concern it."""
        mine = [e for e in events if self.study_id is None or e.study_id == self.study_id]
        if not mine:
            return
        self.pending.extend(mine)
        self.lost = self.lost or len(self.pending) > MOST_PENDING
        self.ready.set()

    async def take(self) -> list[EventView]:
        """Waits for news and returns all there is."""
        await self.ready.wait()
        self.ready.clear()
        taken, self.pending = self.pending, []
        return taken


async def while_good(
    batches: AsyncGenerator[list[EventView]],
    good: Callable[[], Awaitable[bool]],
    seconds: float,
) -> AsyncGenerator[list[EventView]]:
    """The batches, until ``good``, asked every so often, says no: also while none come."""

    async def refused() -> None:
        while True:
            await asyncio.sleep(seconds)
            if not await good():
                return

    over = asyncio.create_task(refused())
    coming: asyncio.Task[list[EventView] | None] | None = None
    try:
        while True:
            coming = asyncio.create_task(_next(batches))
            await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                over.result()
                return
            batch = coming.result()
            if batch is None:
                return
            yield batch
    finally:
        waiting = [task for task in (over, coming) if task is not None]
        for task in waiting:
            task.cancel()
        # The batches are closed only when nobody waits for them any more.
        await asyncio.gather(*waiting, return_exceptions=True)
        await batches.aclose()


async def _next(batches: AsyncGenerator[list[EventView]]) -> list[EventView] | None:
    return await anext(batches, None)


class Feed:
    """The reader. Belongs to one event loop; :meth:`close` ends it with the application."""

    def __init__(self, context: Context, poll_seconds: float = 0.3) -> None:
        self._context = context
        self._poll_seconds = poll_seconds
        self._listeners: set[Listener] = set()
        self._reader: asyncio.Task[None] | None = None
        self._seldom = Seldom()

    async def listen(
        self, study_id: int | None, after: int, quiet_seconds: float = 0.2
    ) -> AsyncGenerator[list[EventView]]:
        """Batches of events, in order, each once.

        Args:
            study_id: Only this study's; None: all.
            after: The last id the listener saw.
            quiet_seconds: How long to gather more once something came, so that a burst is one
                message.
        """
        listener = Listener(study_id)
        self._listeners.add(listener)
        try:
            # The listener is registered first: what is stored meanwhile comes twice, not never.
            newest = await run_in_threadpool(service.newest_event, self._context)
            if self._reader is None or self._reader.done():
                self._reader = asyncio.create_task(self._read(newest))
            seen = after
            async for page in self.missed(study_id, after):
                seen = page[-1].id
                yield page
            while not listener.lost:
                fresh = await listener.take()
                await asyncio.sleep(quiet_seconds)
                if listener.ready.is_set():
                    fresh += await listener.take()
                fresh = [event for event in fresh if event.id > seen]
                if fresh:
                    seen = fresh[-1].id
                    yield fresh
        finally:
            self._listeners.discard(listener)

    async def missed(self, study_id: int | None, after: int) -> AsyncGenerator[list[EventView]]:
        """What is stored after ``after``, in batches."""
        full = True
        while full:
            page = await run_in_threadpool(
                service.events, self._context, study_id=study_id, after=after, limit=PAGE
            )
            if page:
                after = page[-1].id
                yield page
            full = len(page) == PAGE

    async def close(self) -> None:
        """Stops reading."""
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    async def _read(self, last: int) -> None:
        while self._listeners:
            try:
                events = await run_in_threadpool(
                    service.events, self._context, after=last, limit=PAGE
                )
            except TunerError as error:  # the database is away; the next round may find it back
                if (left_out := self._seldom.due(error.code)) is not None:
                    logger.warning("events cannot be read: %s (%d more)", error, left_out)
                events = []
            if events:
                last = events[-1].id
                for listener in tuple(self._listeners):
                    listener.offer(events)
            if len(events) < PAGE:
                await asyncio.sleep(self._poll_seconds)
