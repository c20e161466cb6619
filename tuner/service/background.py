"""What a process does though nobody asks: each job again and again, in a thread of its own.

Several replicas may do the same on one database. A job that waits for others, as webhooks do for
their receivers, holds up no other job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tuner.errors import TunerError

logger = logging.getLogger(__name__)

END_SECONDS = 15.0
"""How long the jobs of a process may take to end, all together."""
LOOK_SECONDS = 1.0
"""How often somebody looks whether one is stuck."""


class Repeated:
    """Calls ``work`` every so often until it is stopped.

    A call that fails is logged and the next one tries again, later and later while the database is
    away. One that does not come back is logged once, and makes the process not ready.

    Args:
        name: What the thread and its lines in the log are called.
        work: The job; safe to call again after it failed half-way.
        seconds: Between two calls.
        limit_seconds: A call that takes longer is taken to be stuck.

    Attributes:
        done_at: When a call last ended well, in seconds since 1970; None: none has yet.
    """

    MOST_SECONDS = 30.0

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        seconds: float = 1.0,
        *,
        limit_seconds: float = 60.0,
    ) -> None:
        self.name = name
        self.done_at: float | None = None
        self._work = work
        self._seconds = seconds
        self._limit_seconds = limit_seconds
        self._began: float | None = None
        self._told = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Lets the present call be the last."""
        self._stopping.set()

    def wait(self, deadline: float) -> None:
        """Waits for the last call to end, until a moment of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            logger.warning("%s did not end in time and is left behind", self.name)

    @property
    def stuck_seconds(self) -> float:
        """How long the present call has taken, if that is longer than any should; else 0."""
        began = self._began
        taken = 0.0 if began is None else time.monotonic() - began
        return taken if taken > self._limit_seconds else 0.0

    def complain(self) -> None:
        """Logs a call that is stuck, once."""
        seconds = self.stuck_seconds
        if seconds and not self._told:
            self._told = True
            logger.error("%s has not come back for %.0f s", self.name, seconds)

    def _call(self) -> None:
        self._began = began = time.monotonic()
        try:
            self._work()
            self.done_at = time.time()
        finally:
            if self._told:
                taken = time.monotonic() - began
                logger.warning("%s has come back after %.0f s", self.name, taken)
            self._began, self._told = None, False

    def _run(self) -> None:
        pause = self._seconds
        while not self._stopping.wait(pause):
            try:
                self._call()
                pause = self._seconds
            except TunerError as error:
                pause = min(2 * pause, self.MOST_SECONDS)
                logger.warning("%s failed, again in %.0f s: %s", self.name, pause, error)
            except Exception:
                # A bug in one call must not end them all: leases would never expire again.
                pause = min(2 * pause, self.MOST_SECONDS)
                logger.exception("%s failed, again in %.0f s", self.name, pause)


@contextmanager
def running(*jobs: Repeated) -> Iterator[None]:
    """The jobs, until the block ends; then all of them are stopped together.

    What does not end in time is left behind: its thread keeps no process alive.
    """

    def look() -> None:
        for job in jobs:
            job.complain()

    everything = (*jobs, Repeated("watch", look, LOOK_SECONDS))
    for job in everything:
        job.start()
    try:
        yield
    finally:
        for job in everything:
            job.stop()
        deadline = time.monotonic() + END_SECONDS
        for job in everything:
            job.wait(deadline)
