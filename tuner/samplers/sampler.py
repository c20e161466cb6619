"""The form of a sampler: finished trials in, new points out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tuner.samplers.history import History
from tuner.spaces import Option, Space


@dataclass(frozen=True)
class Proposal:
    """One point to try, and what the trial is to remember for the sampler (JSON)."""

    params: dict[str, Any]
    note: dict[str, Any] = field(default_factory=dict)


class Sampler(ABC):
    """Proposes points.

    What it proposes depends on the history, the seed and the draw's index alone: whichever process
    asks, and however often it was restarted, the answer is the same. An instance may cache what it
    derives from the history, never what the history does not say. One thing is left to time: a
    sampler with a :meth:`refit` goes by the history as it was at the last one, and two instances
    agree once both were fitted to the same.

    Args:
        settings: A value for every entry of ``options``.
        space: What is searched.
        objectives: How many values are minimised.
        seed: The study's.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}
    most_objectives: ClassVar[int] = 1_000
    """How many objectives it can take."""

    def __init__(
        self, settings: Mapping[str, Any], space: Space, objectives: int, seed: int
    ) -> None:
        self.settings = dict(settings)
        self.space = space
        self.objectives = objectives
        self.seed = seed
        self.max_step = 1
        """The step at which a trial is complete. Set by :func:`create`."""

    def rng(self, draw: int) -> np.random.Generator:
        """The generator of the study's ``draw``-th sampled trial."""
        return np.random.default_rng([self.seed, draw])

    @abstractmethod
    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """At most ``k`` points, none in ``history.taken`` while there are others.

        Args:
            history: What is known.
            k: How many are wanted; one model fit serves them all.
            draw: How many trials of this study were sampled before.
        """

    def exhausted(self, history: History) -> bool:
        """Whether there is nothing more to propose, ever."""
        return False

    def stale(self, history: History) -> bool:
        """Whether :meth:`refit` would do something now."""
        del history
        return False

    def refit(self, history: History) -> Callable[[], None]:
        """Prepares a fit of what is too slow for :meth:`suggest`; most samplers have no such thing.

        It depends on the history and the seed alone, not on earlier fits.

        Returns:
            The fit, over a copy of what it needs: to be called in any thread, once.
        """
        del history
        return lambda: None


def uniform(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """A point drawn uniformly in the unit cube."""
    return space.from_unit(rng.random(len(space.searched)))


def untaken(history: History, rng: np.random.Generator) -> dict[str, Any]:
    """A uniform draw that was not tried before; any draw once the space is used up."""
    space = history.space
    for _ in range(64):
        params = uniform(space, rng)
        if space.key(params) not in history.taken:
            return params
    size = space.grid_size
    if size is not None and len(history.taken) < size <= 100_000:
        left = [p for p in space.grid() if space.key(p) not in history.taken]
        if left:
            return left[int(rng.integers(len(left)))]
    return uniform(space, rng)
