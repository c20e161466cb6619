"""What a process does though nobody asks: each job again and again, in a thread of its own.

Several replicas may do the same on one database. A job that waits for others, as webhooks do for
their receivers, holds up no other job.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tuner.errors import TunerError

logger = logging.getLogger(__name__)


class Repeated:
    """Calls ``work`` every so often until it is stopped.

    A call that fails is logged and the next one tries again, later and later while the database is
    away.

    Args:
        name: What the thread and its lines in the log are called.
        work: The job; safe to call again after it failed half-way.
        seconds: Between two calls.
    """

    MOST_SECONDS = 30.0

    def __init__(self, name: str, work: Callable[[], object], seconds: float = 1.0) -> None:
        self._name = name
        self._work = work
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Lets the present call be the last."""
        self._stopping.set()

    def wait(self, timeout_seconds: float = 15.0) -> None:
        """Waits for the last call to end."""
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            logger.warning("%s did not end within %s s", self._name, timeout_seconds)

    def _run(self) -> None:
        pause = self._seconds
        while not self._stopping.wait(pause):
            try:
                self._work()
                pause = self._seconds
            except TunerError as error:
                pause = min(2 * pause, self.MOST_SECONDS)
                logger.warning("%s failed, again in %.0f s: %s", self._name, pause, error)
            except Exception:
                # A bug in one call must not end them all: leases would never expire again.
                pause = min(2 * pause, self.MOST_SECONDS)
                logger.exception("%s failed, again in %.0f s", self._name, pause)


@contextmanager
def running(*jobs: Repeated) -> Iterator[None]:
    """The jobs, until the block ends; then all of them are stopped together."""
    with ExitStack() as stack:
        for job in jobs:
            job.start()
            stack.callback(job.wait)
        for job in jobs:
            stack.callback(job.stop)
        yield
