"""SIGINT and SIGTERM as an event that loops wait for."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def stopping() -> threading.Event:
    """An event that SIGINT and SIGTERM set; a second SIGINT interrupts at once."""
    stop = threading.Event()

    def asked(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Not here: the interrupted code may hold the event's own lock.
        threading.Thread(target=stop.set, name="stop").start()

    signal.signal(signal.SIGINT, asked)
    signal.signal(signal.SIGTERM, asked)
    return stop
