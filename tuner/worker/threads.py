"""How many threads a process trains with on a CPU: no more than there are cores to run them.

The threads of an operation wait for the last of them, and spin meanwhile. So where others want the
cores, or a container may use only a part of them, two threads are slower than one by far: on two
cores with six other busy processes a study took more than four times as long. Linux tells how long
a thread that could run had to wait for a core.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

log = logging.getLogger(__name__)

JUDGED_SECONDS = 0.5
"""Training after which a number of threads is judged."""
SPARE = 0.2
"""Of a core, what may be missing: a server beside the worker, or the heart's beat."""
AGAIN_SECONDS = 10.0
"""When more threads are tried again; twice as long each time that they lack cores."""
LONGEST_SECONDS = 320.0


def waited() -> float:
    """Seconds that threads of this process could have run and had no core, in all; 0 if unknown."""
    nanoseconds = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            nanoseconds += int(task.read_text().split()[1])
        except (OSError, IndexError):  # the thread has ended
            continue
    return nanoseconds / 1e9


class Threads:
    """The threads of this process, fewer while they lack cores.

    Args:
        most: So many at most.
        waited: See :func:`waited`.
        now: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        most: int,
        *,
        waited: Callable[[], float] = waited,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self.count = most
        self.judged = most == 1
        """Whether so many have cores, as far as is known; until then pieces had better be short."""
        self._waited = waited
        self._now = now
        self._trained = 0.0
        self._lacked = 0.0
        self._again = 0.0
        self._pause = AGAIN_SECONDS

    def reconsider(self) -> None:
        """Takes all of them again where the last try was long ago."""
        if self.count < self.most and self._now() >= self._again:
            self._set(self.most)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it the process trains; thereafter there may be fewer of them."""
        if self.most == 1:
            yield
            return
        start, before = self._now(), self._waited()
        yield
        self._trained += self._now() - start
        self._lacked += max(0.0, self._waited() - before)  # of a thread that ended nothing is left
        if self._trained >= JUDGED_SECONDS:
            self._judge()

    def _judge(self) -> None:
        lacking = self._lacked / self._trained
        served = max(1, math.floor(self.count - lacking + SPARE))
        self._trained = self._lacked = 0.0
        self.judged = True
        if served < self.count:
            log.info("%d of %d threads: others want the cores", served, self.most)
            self._again = self._now() + self._pause
            self._pause = min(2 * self._pause, LONGEST_SECONDS)
            self._set(served)
        elif self.count == self.most:
            self._pause = AGAIN_SECONDS

    def _set(self, count: int) -> None:
        torch.set_num_threads(count)
        self.count = count
        self.judged = count == 1
        self._trained = self._lacked = 0.0
