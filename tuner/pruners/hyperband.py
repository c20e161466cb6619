"""Hyperband: several asynchronous halvings that differ in how early they begin to compare.

Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 2018,
https://arxiv.org/abs/1603.06560; asynchronous as in Li et al., 2020, section 3.3. A trial belongs
to one bracket and is compared within it. Brackets are drawn with the odds of Hyperband's bracket
sizes, so the bracket that compares earliest has the most trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tuner.pruners import register
from tuner.pruners.asha import AshaPruner, first_rung, rungs
from tuner.spaces import Option, Space


@register("hyperband")
class HyperbandPruner(AshaPruner):
    """ASHA in several brackets."""

    summary = (
        "Several halvings at once, from early to late first comparisons; hedges slow starters."
    )
    options: ClassVar[Mapping[str, Option]] = {
        **AshaPruner.options,
        "brackets": Option(
            None, "int", low=1, high=20, doc="How many; by default one for each rung, at most four."
        ),
    }

    def __init__(self, settings: Mapping[str, Any], max_step: int, space: Space, seed: int) -> None:
        super().__init__(settings, max_step, space, seed)
        first = self.settings["min_resource"] or first_rung(space, max_step)
        most = len(self.rungs[0])
        count = min(self.settings["brackets"] or 4, most)
        self.rungs = {
            b: rungs(round(first * self.factor**b), self.factor, max_step) for b in range(count)
        }
        sizes = [math.ceil(count * self.factor**s / (s + 1)) for s in reversed(range(count))]
        self._odds = np.cumsum(sizes) / sum(sizes)

    def enter(self, draw: int) -> dict[str, Any]:
        """The bracket, by lot."""
        u = np.random.default_rng([self.seed, draw, 2]).random()
        return {"bracket": int(np.searchsorted(self._odds, u))}

    def lane(self, note: Mapping[str, Any]) -> int:
        """The bracket; an enqueued trial is in the first."""
        bracket = note.get("bracket", 0)
        return bracket if isinstance(bracket, int) and bracket in self.rungs else 0
