"""Answers that cost much and that many ask for: computed once for all who ask.

An answer belongs to a version of what it was computed from, such as a study's revision. Whoever
asks while it is being computed waits for it instead of computing it again, so ten dashboards that
hear the same news cost as much as one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

T = TypeVar("T")


@dataclass
class _Answer:
    lock: threading.Lock = field(default_factory=threading.Lock)
    version: Hashable = None
    at: datetime | None = None
    value: Any = None


class Memo:
    """The answers of one process; threads share it.

    Args:
        now: The clock.
        size: Answers that are kept; those not asked for longest are forgotten first.
    """

    def __init__(self, now: Callable[[], datetime], size: int = 1000) -> None:
        self._now = now
        self._size = size
        self._lock = threading.Lock()
        self._answers: OrderedDict[Hashable, _Answer] = OrderedDict()

    def last(self, key: Hashable) -> tuple[Hashable, Any] | None:
        """The version and the value of the last answer to ``key``, if there is one; no waiting."""
        with self._lock:
            answer = self._answers.get(key)
        return None if answer is None or answer.at is None else (answer.version, answer.value)

    def get(
        self,
        key: Hashable,
        version: Hashable,
        compute: Callable[[], T],
        *,
        good_seconds: float = 0.0,
    ) -> T:
        """The answer to ``key`` for ``version``.

        Args:
            key: The question.
            version: What tells an answer of now from one of before.
            compute: Finds the answer; what it raises is raised, and nothing is kept.
            good_seconds: An answer this young is good enough though its version is another.
        """
        with self._lock:
            answer = self._answers.setdefault(key, _Answer())
            self._answers.move_to_end(key)
            while len(self._answers) > self._size:
                self._answers.popitem(last=False)
        with answer.lock:
            # Of an answer from a clock that was set back since nobody knows how old it is.
            young = answer.at is not None and abs(self._now() - answer.at) < timedelta(
                seconds=good_seconds
            )
            if answer.at is None or not (answer.version == version or young):
                answer.value = compute()
                answer.version, answer.at = version, self._now()
            return cast("T", answer.value)
