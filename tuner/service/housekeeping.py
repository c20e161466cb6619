"""The threads in which a process does what must happen though nobody asks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tuner.errors import TunerError
from tuner.service.context import Context
from tuner.service.upkeep import look_ahead, tick

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
MOST_SECONDS = 30.0
"""The longest pause after failures."""


@contextmanager
def housekeeping(ctx: Context, interval_seconds: float = INTERVAL_SECONDS) -> Iterator[None]:
    """Keeps house while the block runs; several processes may do so on one database.

    Models are fitted in a thread of their own, so that no lease and no study waits for them.
    """
    # Rounds that are rarer than leases are short would look like a server that is away.
    seconds = min(interval_seconds, ctx.settings.lease_seconds / 10)
    with ExitStack() as stack:
        for chore in (tick, look_ahead):
            rounds = Rounds(ctx, chore, seconds)
            rounds.start()
            stack.callback(rounds.stop)
        yield


class Rounds:
    """One chore, again and again in a thread of its own, until stopped.

    A round that fails is logged and the next one tries again, later and later while the database is
    away.
    """

    def __init__(
        self, ctx: Context, chore: Callable[[Context], None], interval_seconds: float
    ) -> None:
        self._ctx = ctx
        self._chore = chore
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=chore.__name__, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Lets the present round end, and waits for it."""
        self._stopping.set()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            log.warning("%s did not end within %s s", self._thread.name, timeout_seconds)

    def _run(self) -> None:
        pause = self._interval_seconds
        while not self._stopping.wait(pause):
            try:
                self._chore(self._ctx)
                pause = self._interval_seconds
            except TunerError as error:
                pause = min(2 * pause, MOST_SECONDS)
                log.warning("%s failed, again in %.0f s: %s", self._thread.name, pause, error)
            except Exception:
                # A bug in one round must not end them all: leases would never expire again.
                pause = min(2 * pause, MOST_SECONDS)
                log.exception("%s failed, again in %.0f s", self._thread.name, pause)
