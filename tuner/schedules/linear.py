"""Linear decay to ``final``; as torch's ``LinearLR`` and optax's ``linear_schedule``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import FINAL, Schedule, Tensors, progress


@register("linear")
class Linear(Schedule):
    """A straight line from 1 to ``final`` over the steps after the warm-up, then ``final``.

    To zero it is the decay that Defazio et al., "Optimal Linear Decay Learning Rate Schedules and
    Further Refinements", 2023, https://arxiv.org/abs/2310.07831, find best overall.
    """

    summary = "A straight line down to the final multiplier."
    formula = "1 - p (1 - r)"
    reference = "https://arxiv.org/abs/2310.07831"
    hyper: ClassVar[Mapping[str, Hyper]] = {"final": FINAL}

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        return 1.0 - progress(t, T) * (1.0 - h["final"])
