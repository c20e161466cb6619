"""Processes and threads of these tests: looked for, listened to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.worker.scripts.channel import Channel, Said


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended (a zombie has)."""
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return words[0] not in (b"Z", b"X")


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
