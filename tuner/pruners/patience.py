"""Ends a trial whose metric has stopped getting better.

Prechelt, "Early Stopping - But When?", 1998 (criterion UP). A trial that ends so is complete, not
pruned: it has given what it had to give, and its value counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tuner.pruners import CONTINUE, Board, Decision, Pruner, Track, register
from tuner.pruners.pruner import next_interval
from tuner.spaces import Option


@register("patience")
class PatiencePruner(Pruner):
    """Compares a trial with itself only."""

    summary = "Completes a trial early when it has not improved for some epochs."
    options: ClassVar[Mapping[str, Option]] = {
        "patience": Option(
            5, "int", low=1, high=1_000_000, doc="Epochs without improvement that are waited for."
        ),
        "min_delta": Option(0.0, "float", low=0.0, doc="What counts as an improvement."),
        "n_warmup_steps": Option(
            0, "int", low=0, high=1_000_000, doc="No trial ends before this step."
        ),
    }

    def next_stop(self, step: int, lane: int) -> int:
        """Every step after the warm-up and the first wait."""
        first = max(self.settings["n_warmup_steps"], self.settings["patience"] + 1)
        return next_interval(step, first, 1, self.max_step)

    def decide(self, board: Board, track: Track, last_call: bool) -> Decision:
        """Ends it when the best of the last epochs beats none of the earlier ones."""
        since = track.step - self.settings["patience"]
        recent = min((v for s, v in track.curve.items() if s > since), default=0.0)
        if recent < track.best(since) - self.settings["min_delta"]:
            return CONTINUE
        return Decision("finish", f"no improvement in {self.settings['patience']} epochs")
