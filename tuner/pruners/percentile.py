"""Stops a trial that is worse than a percentile of all trials at the same step.

The median rule is Golovin et al., "Google Vizier: A Service for Black-Box Optimization", 2017,
section 3.2.2. Two differences, both because a population trains many trials at once: every trial
that reached the step is compared with, not the completed ones only (there are none for a long
time), and a trial stands by its best value so far, which noise moves less than its last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tuner.pruners import CONTINUE, Board, Decision, Pruner, Track, register
from tuner.pruners.pruner import next_interval, told
from tuner.spaces import Option

COMMON = {
    "n_startup_trials": Option(
        5, "int", low=0, high=100_000, doc="Nothing is stopped before so many reached the step."
    ),
    "n_warmup_steps": Option(
        0, "int", low=0, high=1_000_000, doc="Nothing is stopped before this step."
    ),
    "interval_steps": Option(1, "int", low=1, high=1_000_000, doc="Steps between decisions."),
}


@register("percentile")
class PercentilePruner(Pruner):
    """Keeps the best ``percentile`` percent at each step."""

    summary = "Stops a trial that is outside the best percentile of all trials at the same step."
    options: ClassVar[Mapping[str, Option]] = {
        "percentile": Option(25.0, "float", low=0.0, high=100.0, doc="The share kept, in percent."),
        **COMMON,
    }

    def next_stop(self, step: int, lane: int) -> int:
        """Every ``interval_steps`` from the warm-up on."""
        warmup, interval = self.settings["n_warmup_steps"], self.settings["interval_steps"]
        return next_interval(step, warmup, interval, self.max_step)

    def decide(self, board: Board, track: Track, last_call: bool) -> Decision:
        """Stops it when its best so far is above the percentile of the others' values here."""
        others = [v for v, n in board.ranking(track.step) if n != track.number]
        if len(others) < max(self.settings["n_startup_trials"], 1):
            return CONTINUE
        share = self.percentile / 100
        # no interpolation: an inf among the others (a diverged trial) would turn it into NaN
        bound = float(np.quantile(others, share, method="higher"))
        best = track.best(track.step)
        if best <= bound:
            return CONTINUE
        # in the metric's own sense, where the board's is that less is better
        value, mark = told(self.sign * best, self.sign * bound)
        side = "above" if self.sign > 0 else "below"
        return Decision("stop", f"best {value} is {side} the {self.percentile:g} % mark {mark}")

    @property
    def percentile(self) -> float:
        """The share kept, in percent."""
        return float(self.settings["percentile"])
