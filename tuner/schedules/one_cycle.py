"""One cycle: up, then far down, the momentum the other way; as torch's ``OneCycleLR``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import Option, Schedule, Tensors


@register("one_cycle")
class OneCycle(Schedule):
    """From ``1/div`` up to 1, then down to ``1/(div * final_div)``; momentum falls, then rises.

    Smith and Topin, "Super-Convergence", 2017, https://arxiv.org/abs/1708.07120, in torch's two
    phases: the peak is at step ``peak_at * T - 1`` and the end at ``T - 1`` (optax puts the peak at
    ``peak_at * T``). It moves an optimizer's ``momentum`` (of Muon that of the matrices), or the
    ``beta1`` of Adam's kin. It brings its own rise; a warm-up besides leads to its first value.
    """

    summary = "Up for a third of the budget, then down to almost nothing; momentum the other way."
    formula = "1/div -> 1 over peak_at T, -> 1/(div final_div); each way half a cosine"
    reference = "https://arxiv.org/abs/1708.07120"
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "peak_at": Hyper(
            0.3, 0.0, 1.0, True, True, (0.1, 0.5), doc="fraction of the steps to rise"
        ),
        "div": Hyper(25.0, 1.0, 1e12, search=(5.0, 100.0), log=True, doc="peak over first value"),
        "final_div": Hyper(1e4, 1.0, 1e12, doc="first over last value"),
        "momentum_high": Hyper(0.95, 0.0, 1.0, open_high=True, doc="momentum at both ends"),
        "momentum_low": Hyper(0.85, 0.0, 1.0, open_high=True, doc="momentum at the peak"),
    }
    options: ClassVar[Mapping[str, Option]] = {
        "anneal": Option("cosine", "how it moves between two values", ("cosine", "linear")),
        "cycle_momentum": Option(True, "whether the momentum moves too", (True, False)),
    }

    def _between(self, start: Tensor, end: Tensor, x: Tensor) -> Tensor:
        if self.chosen["anneal"] == "linear":
            return start + (end - start) * x
        return end + (start - end) * 0.5 * (1.0 + (math.pi * x).cos())

    def _phases(
        self, t: Tensor, T: Tensor, h: Tensors, low: Tensor, high: Tensor, end: Tensor
    ) -> Tensor:
        peak = (h["peak_at"] * T - 1.0).clamp(min=0.0)
        last = (T - 1.0).clamp(min=0.0)
        rise = torch.where(peak > 0.0, t / peak.clamp(min=1e-12), 1.0).clamp(0.0, 1.0)
        fall = torch.where(last > peak, (t - peak) / (last - peak).clamp(min=1e-12), 0.0).clamp(
            0.0, 1.0
        )
        return torch.where(
            t <= peak, self._between(low, high, rise), self._between(high, end, fall)
        )

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        low = 1.0 / h["div"]
        return self._phases(t, T, h, low, torch.ones_like(low), low / h["final_div"])

    @override
    def momentum(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor | None:
        if not self.chosen["cycle_momentum"]:
            return None
        high, low = h["momentum_high"], h["momentum_low"]
        return self._phases(t, T, h, high, low, high)
