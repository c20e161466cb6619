"""Stops a trial that is significantly worse, step by step, than the best at the same step.

Wilcoxon, "Individual Comparisons by Ranking Methods", 1945, as Optuna's ``WilcoxonPruner`` uses it:
the two curves are paired step by step, and a one-sided signed-rank test asks whether the trial lies
above. It suits metrics that are noisy from step to step (folds, games, instances); on smooth
curves, whose steps are not independent, it stops earlier than its level says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tuner.pruners import CONTINUE, Board, Decision, Pruner, Track, register
from tuner.pruners.pruner import next_interval
from tuner.spaces import Option


@register("wilcoxon")
class WilcoxonPruner(Pruner):
    """A paired test against whoever leads at the trial's step."""

    summary = "Stops a trial when a signed-rank test says that it is worse than the best so far."
    options: ClassVar[Mapping[str, Option]] = {
        "p_threshold": Option(
            0.1, "float", low=0.0, high=1.0, doc="Stops when the test's p is below."
        ),
        "n_startup_steps": Option(
            4, "int", low=1, high=1_000_000, doc="No test before so many common steps."
        ),
    }

    def next_stop(self, step: int, lane: int) -> int:
        """Every step."""
        return next_interval(step, self.settings["n_startup_steps"], 1, self.max_step)

    def decide(self, board: Board, track: Track, last_call: bool) -> Decision:
        """Stops it when it is worse both in the test and in the mean."""
        leader = next((n for v, n in board.ranking(track.step) if np.isfinite(v)), track.number)
        if leader == track.number:
            return CONTINUE
        other = board.tracks[leader].curve
        common = sorted(track.curve.keys() & other.keys())
        difference = np.array([track.curve[s] - other[s] for s in common])
        if len(common) < self.settings["n_startup_steps"] or difference.mean() <= 0:
            return CONTINUE
        from scipy.stats import wilcoxon  # noqa: PLC0415  (half a second to load)

        p = float(wilcoxon(difference, alternative="greater", zero_method="zsplit").pvalue)
        if p >= self.settings["p_threshold"]:
            return CONTINUE
        return Decision("stop", f"worse than trial {leader} over {len(common)} steps, p = {p:.2g}")
