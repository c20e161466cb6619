"""Threads of training, which want a core each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from tests.installation import PATIENCE_SECONDS
from tuner.worker.threads import AGAIN_SECONDS, JUDGED_SECONDS, Threads


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """A clock, and cores that are there for a number of threads."""

    def __init__(self, cores: float) -> None:
        self.cores = cores
        self.time = 0.0
        self.waits = 0.0

    def train(self, threads: Threads, seconds: float = JUDGED_SECONDS) -> None:
        threads.reconsider()
        with threads.watched():
            self.time += seconds
            self.waits += max(0.0, threads.count - self.cores) * seconds

    def threads(self, most: int) -> Threads:
        return Threads(most, waited=lambda: self.waits, now=lambda: self.time)


@pytest.mark.parametrize(
    ("most", "cores", "expected"),
    [(2, 2.0, 2), (2, 1.9, 2), (2, 1.5, 1), (16, 15.0, 15), (4, 0.3, 1)],
)
def test_there_are_no_more_than_cores(most: int, cores: float, expected: int) -> None:
    machine = Machine(cores)
    torch.set_num_threads(most)
    some = machine.threads(most)
    machine.train(some)
    assert (some.count, torch.get_num_threads()) == (expected, expected)


def test_a_moment_is_not_judged() -> None:
    machine = Machine(0.5)
    some = machine.threads(2)
    machine.train(some, JUDGED_SECONDS / 3)
    machine.train(some, JUDGED_SECONDS / 3)
    assert (some.count, some.judged) == (2, False)
    machine.train(some, JUDGED_SECONDS / 2)
    assert (some.count, some.judged) == (1, True)


def test_all_are_tried_again_later_each_time_until_there_are_cores() -> None:
    machine = Machine(1.0)
    some = machine.threads(2)
    machine.train(some)
    lengths = []
    for _ in range(3):
        start = machine.time
        while some.count == 1:
            machine.train(some)
            some.reconsider()
        lengths.append(machine.time - start)
        machine.train(some)
        assert some.count == 1
    assert lengths == pytest.approx([AGAIN_SECONDS, 2 * AGAIN_SECONDS, 4 * AGAIN_SECONDS], abs=1.0)
    machine.cores = 2.0
    machine.time += 8 * AGAIN_SECONDS
    machine.train(some)
    assert (some.count, some.judged) == (2, True)
    machine.cores = 1.0
    machine.train(some)
    machine.time += AGAIN_SECONDS
    some.reconsider()
    assert (some.count, some.judged) == (2, False)  # as at first, now that there had been cores


def test_one_thread_is_left_alone() -> None:
    machine = Machine(0.1)
    one = machine.threads(1)
    machine.train(one)
    assert (one.count, one.judged) == (1, True)


ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
from tuner.worker.threads import Threads
torch.set_num_threads(2)
some = Threads(2)
x = torch.randn(600, 600)
for _ in range(2000):
    with some.watched():
        x @ x
    if some.count == 1:
        break
print(some.count, torch.get_num_threads())
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells how long threads wait"
)
def test_two_threads_on_one_core_become_one() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    told = subprocess.run(
        [sys.executable, "-c", ON_ONE_CORE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert told.stdout.split() == ["1", "1"]
