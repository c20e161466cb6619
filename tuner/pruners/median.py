"""Stops a trial that is worse than the median of all trials at the same step (Vizier's rule)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tuner.pruners import register
from tuner.pruners.percentile import COMMON, PercentilePruner
from tuner.spaces import Option


@register("median")
class MedianPruner(PercentilePruner):
    """The percentile rule at 50 percent."""

    summary = "Stops a trial that is worse than the median of all trials at the same step."
    options: ClassVar[Mapping[str, Option]] = dict(COMMON)

    @property
    def percentile(self) -> float:
        """Half are kept."""
        return 50.0
