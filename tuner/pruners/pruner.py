"""The form of a pruner: curves in, a decision out.

A pruner holds settings only. It decides at the steps it names itself: the engine runs a trial to
``until`` and asks again. Everything it knows is on the :class:`Board`, so that any decision can be
made again from a stored history.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tuner.pruners.board import Board, Track
from tuner.spaces import Option, Space

Action = Literal["continue", "pause", "stop", "finish"]


@dataclass(frozen=True)
class Decision:
    """What becomes of a trial at a step of decision, and why."""

    action: Action
    reason: str = ""


CONTINUE = Decision("continue")


@dataclass(frozen=True)
class Spawn:
    """A new trial that begins where another stands.

    Args:
        params: Its point.
        copy_of: Whose checkpoint it starts from.
        start: The step of that checkpoint.
        note: What it is to remember; ``start`` among it.
    """

    params: dict[str, Any]
    copy_of: int
    start: int
    note: dict[str, Any]


class Pruner(ABC):
    """Decides which trials go on.

    Args:
        settings: A value for every entry of ``options``.
        max_step: The step at which a trial is complete.
        space: What is searched; some defaults depend on it.
        seed: The study's.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}
    copies: ClassVar[bool] = False
    """Whether it starts trials from the checkpoints of others."""
    ranks_by_best: ClassVar[bool] = False
    """Whether its board ranks a trial by its best value so far instead of its present one."""

    def __init__(self, settings: Mapping[str, Any], max_step: int, space: Space, seed: int) -> None:
        self.settings = dict(settings)
        self.max_step = max_step
        self.space = space
        self.seed = seed
        self.sign = 1.0
        """Times a value on the board: the metric in the user's own sense. Set by :func:`create`."""

    def idle(self, trials: int | None) -> tuple[str, str] | None:
        """The field to blame, and why, where it could never do anything in a study.

        Args:
            trials: At most so many are in it, copies among them.
        """
        return None

    def enter(self, draw: int) -> dict[str, Any]:
        """What the ``draw``-th sampled trial is to remember, such as its bracket."""
        return {}

    def lane(self, note: Mapping[str, Any]) -> int:
        """Which trials a trial is compared with."""
        return 0

    @abstractmethod
    def next_stop(self, step: int, lane: int) -> int:
        """The first step of decision after ``step``; ``max_step`` at the latest."""

    @abstractmethod
    def decide(self, board: Board, track: Track, last_call: bool) -> Decision:
        """What becomes of ``track``, which has reached its ``until``, below ``max_step``.

        Args:
            board: All curves.
            track: The trial; its value at ``track.step`` is on the board.
            last_call: No new trial will start.
        """

    def promotable(self, board: Board, last_call: bool) -> Iterator[Track]:
        """Paused trials that deserve another stretch, the most deserving first."""
        return iter(())

    def spawn(self, board: Board, params: Mapping[int, Mapping[str, Any]]) -> Iterator[Spawn]:
        """New trials that are to be copied from others.

        Args:
            board: All curves.
            params: The point of every trial.
        """
        return iter(())

    def room(self, board: Board, offered: int) -> int | None:
        """How many new trials of the sampler may start now; None: any number.

        Args:
            board: All curves.
            offered: New trials handed out that are not on the board yet.
        """
        return None


def next_interval(step: int, warmup: int, interval: int, max_step: int) -> int:
    """The first of ``warmup + i * interval`` (i >= 0, at least step 1) above ``step``."""
    first = max(warmup, 1)
    if step < first:
        return min(first, max_step)
    return min(first + ((step - first) // interval + 1) * interval, max_step)


def told(value: float, bound: float) -> tuple[str, str]:
    """A value and the bound it passed, with as many digits: four, or what tells them apart.

    Up to a million without an exponent.
    """
    for digits in range(4, 18):
        texts = f"{value:.{digits}g}", f"{bound:.{digits}g}"
        if texts[0] != texts[1] and (digits > 6 or "e+" not in texts[0] + texts[1]):
            break
    return texts
