"""Cosine decay with warm restarts; as torch's ``CosineAnnealingWarmRestarts`` in steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import FINAL, UNIT, WHOLE, Option, Schedule, Tensors


@register("cosine_restarts")
class CosineRestarts(Schedule):
    """Cosine decays one after another, each ``growth`` times as long as the one before.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016,
    https://arxiv.org/abs/1608.03983 (T_0 is ``first``, T_mult ``growth``). The defaults, a seventh
    and 2, make three whole cycles of the budget, so that training ends low. ``growth`` need not be
    a whole number.
    """

    summary = "Cosine decays one after another, each longer than the last."
    formula = "r + (1 - r) (1 + cos(pi t_i / T_i)) / 2, T_i = first growth^i"
    reference = "https://arxiv.org/abs/1608.03983"
    jumps = True
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "first": Hyper(
            1 / 7, 0.0, 1e12, open_low=True, search=(0.05, 0.5), doc="length of cycle 0, in units"
        ),
        "growth": Hyper(2.0, 1.0, 100.0, search=(1.0, 3.0), doc="ratio of two cycles' lengths"),
        "final": FINAL,
    }
    options: ClassVar[Mapping[str, Option]] = {"unit": UNIT}

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        r, g = h["final"], h["growth"]
        x = t / (h["first"] * self.unit_steps(T, h))
        grows = g > 1.0
        ratio = torch.where(grows, g, 2.0)  # any value but 1, where the geometric sum fails
        cycle = torch.where(
            grows, ((x * (ratio - 1.0)).log1p() / ratio.log() + WHOLE).floor(), (x + WHOLE).floor()
        )
        length = torch.where(grows, ratio**cycle, 1.0)
        start = torch.where(grows, (length - 1.0) / (ratio - 1.0), cycle)
        local = ((x - start) / length).clamp(0.0, 1.0)
        return r + (1.0 - r) * 0.5 * (1.0 + (math.pi * local).cos())

    @override
    def reach(self, T: int, h: Mapping[str, float], prefix: str) -> None:
        first = self.steps_of(h["first"], T, h)
        if first >= T:
            raise InvalidInput(
                f"{prefix}first",
                f"the first restart comes after {first:g} steps of {T}: never; use cosine",
            )
