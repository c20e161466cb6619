"""Stops a trial whose metric leaves the band that a useful trial stays in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tuner.errors import InvalidInput
from tuner.pruners import CONTINUE, Board, Decision, Pruner, Track, register
from tuner.pruners.percentile import COMMON
from tuner.pruners.pruner import next_interval, told
from tuner.spaces import Option, Space


@register("threshold")
class ThresholdPruner(Pruner):
    """Compares with fixed bounds, in the metric's own sense."""

    summary = "Stops a trial whose metric is above or below a fixed bound."
    options: ClassVar[Mapping[str, Option]] = {
        "upper": Option(None, "float", doc="A trial whose metric is above is stopped."),
        "lower": Option(None, "float", doc="A trial whose metric is below is stopped."),
        "n_warmup_steps": COMMON["n_warmup_steps"],
        "interval_steps": COMMON["interval_steps"],
    }

    def __init__(self, settings: Mapping[str, Any], max_step: int, space: Space, seed: int) -> None:
        super().__init__(settings, max_step, space, seed)
        lower, upper = self.settings["lower"], self.settings["upper"]
        if lower is None and upper is None:
            raise InvalidInput("pruner.upper", "is missing; threshold needs upper or lower")
        if lower is not None and upper is not None and lower > upper:
            raise InvalidInput("pruner.lower", f"{lower} is above upper, {upper}")

    def next_stop(self, step: int, lane: int) -> int:
        """Every ``interval_steps`` from the warm-up on."""
        warmup, interval = self.settings["n_warmup_steps"], self.settings["interval_steps"]
        return next_interval(step, warmup, interval, self.max_step)

    def decide(self, board: Board, track: Track, last_call: bool) -> Decision:
        """Stops it outside the band."""
        value = self.sign * track.curve[track.step]
        lower, upper = self.settings["lower"], self.settings["upper"]
        if upper is not None and value > upper:
            return Decision("stop", "{} is above {}".format(*told(value, upper)))
        if lower is not None and value < lower:
            return Decision("stop", "{} is below {}".format(*told(value, lower)))
        return CONTINUE
