from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.tuner.service.simulation import Clock
from tuner.service.memo import Memo


class Counter:
    """Answers with how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


def test_an_answer_holds_for_its_version() -> None:
    memo, work = Memo(Clock()), Counter()
    assert [memo.get("a", 1, work) for _ in range(3)] == [1, 1, 1]
    assert memo.get("a", 2, work) == 2
    assert memo.get("b", 2, work) == 3


def test_the_last_answer_is_there_without_work() -> None:
    memo, work = Memo(Clock()), Counter()
    assert memo.last("a") is None
    memo.get("a", 7, work)
    assert memo.last("a") == (7, 1)


def test_a_young_answer_is_good_enough() -> None:
    clock, work = Clock(), Counter()
    memo = Memo(clock)
    memo.get("a", 1, work)
    clock.advance(9)
    assert memo.get("a", 2, work, good_seconds=10) == 1
    clock.advance(2)
    assert memo.get("a", 3, work, good_seconds=10) == 2
    assert memo.get("a", 3, work) == 2


def test_no_answer_is_young_because_the_clock_was_set_back() -> None:
    clock, work = Clock(), Counter()
    memo = Memo(clock)
    memo.get("a", 1, work)
    clock.advance(-3600)
    assert memo.get("a", 2, work) == 2
    clock.advance(3600 + 20)
    assert memo.get("a", 3, work, good_seconds=10) == 3


def test_what_failed_is_tried_again() -> None:
    memo = Memo(Clock())
    with pytest.raises(ZeroDivisionError):
        memo.get("a", 1, lambda: 1 // 0)
    assert memo.get("a", 1, lambda: 5) == 5


def test_many_that_ask_at_once_wait_for_one_answer() -> None:
    memo, work = Memo(Clock()), Counter()
    started, go = threading.Event(), threading.Event()
    answers: list[int] = []

    def slow() -> int:
        started.set()
        assert go.wait(30)
        return work()

    def ask(compute: Callable[[], int]) -> None:
        answers.append(memo.get("a", 1, compute))

    first = threading.Thread(target=ask, args=(slow,))
    first.start()
    assert started.wait(30)
    others = [threading.Thread(target=ask, args=(work,)) for _ in range(8)]
    for thread in others:
        thread.start()
    # Another question does not wait for this one.
    assert memo.get("b", 1, lambda: 7) == 7
    go.set()
    for thread in (first, *others):
        thread.join(30)
    assert answers == [1] * 9


def test_what_nobody_asks_for_is_forgotten() -> None:
    memo, work = Memo(Clock(), size=2), Counter()
    for key in ("a", "b", "a", "c"):
        memo.get(key, 1, work)
    assert memo.get("a", 1, work) == 1
    assert memo.get("b", 1, work) == 4
