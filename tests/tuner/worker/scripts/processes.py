"""Processes and threads of these tests: waited for, looked for, listened to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner.worker.scripts.channel import Channel, Said

PATIENCE_SECONDS = 60.0


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended (a zombie has)."""
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return words[0] not in (b"Z", b"X")


def until(condition: Callable[[], Any], what: str) -> Any:
    """Waits until ``condition`` gives something true; gives it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE_SECONDS} s for {what}")


@contextmanager
def listening(path: Path, answer: Callable[[Said], None]) -> Iterator[None]:
    """A worker that answers each line like that."""
    channel, done = Channel(path), threading.Event()

    def serve() -> None:
        while not done.is_set():
            for said in channel.hear(0.02):
                answer(said)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        channel.close()
