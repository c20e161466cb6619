"""Samples a second of a population with one thread, a thread a core, and as workers choose them.

    python benchmarks/threads.py

Beside it so many other processes keep a core busy each. A worker takes fewer threads where others
want the cores, and tries all of them again later: tuner/worker/threads.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.population import CASES, contender
from tuner.worker.places import cores
from tuner.worker.threads import Threads

KINDS = ("one thread", "a thread a core", "as workers do")


def spin() -> None:
    """Wants a core for ever."""
    while True:
        pass


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that want a core each."""
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def rate(epoch: Callable[[], int], threads: Threads, seconds: float) -> float:
    """Trial-samples a second."""
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        threads.reconsider()
        with threads.watched():
            done += epoch()
    return done / (time.perf_counter() - start)


def work(pipe: Any, kind: str, case: str, slots: int, seconds: float) -> None:
    """A process that trains in one way, and says how fast."""
    torch.set_num_threads(1 if kind == KINDS[0] else cores())
    epoch = contender(f"ours K{slots}", case, "cpu")
    for _ in range(6):
        epoch()  # past every measurement and recording
    pipe.send("ready")
    pipe.recv()
    threads = Threads(cores() if kind == KINDS[2] else 1)
    pipe.send(rate(epoch, threads, seconds))


def measured(kind: str, case: str, others: int, slots: int, seconds: float) -> float:
    """One cell of the table."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(
        target=work, args=(there, kind, case, slots, seconds)
    )
    child.start()
    here.recv()
    with busy(others):
        here.send("go")
        found: float = here.recv()
    child.join()
    return found


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", default="mlp 32,lenet 32", help="comma-separated")
    parser.add_argument("--busy", default="0,1,6", help="other processes, comma-separated")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=12.0)
    arguments = parser.parse_args()
    unknown = set(arguments.cases.split(",")) - CASES.keys()
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    print("| case | busy processes | " + " | ".join(KINDS) + " |\n|---|---|---|---|---|")
    for case in arguments.cases.split(","):
        for others in map(int, arguments.busy.split(",")):
            found = [measured(k, case, others, arguments.slots, arguments.seconds) for k in KINDS]
            shown = " | ".join(f"{value:,.0f}" for value in found)
            print(f"| {case} | {others} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
