"""Cyclical rates: triangular, triangular2 and exponential range; as torch's ``CyclicLR``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import UNIT, WHOLE, Option, Schedule, Tensors


@register("cyclic")
class Cyclic(Schedule):
    """Triangles between ``base`` and 1, ``half_cycle`` units up and as long down.

    Smith, "Cyclical Learning Rates for Training Neural Networks", 2015,
    https://arxiv.org/abs/1506.01186. ``triangular2`` halves the height each cycle, ``exp`` shrinks
    it by ``gamma`` per unit. torch names the two rates ``base_lr`` and ``max_lr``: here the latter
    is ``lr`` and the former ``base * lr``. The momentum stays; ``one_cycle`` moves it.
    """

    summary = "Up and down in triangles, of constant or shrinking height."
    formula = "base + (1 - base) max(0, 1 - |t/half - 2c + 1|) {1, 2^-(c-1), gamma^t}, c the cycle"
    reference = "https://arxiv.org/abs/1506.01186"
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "half_cycle": Hyper(
            1 / 8, 0.0, 1e12, open_low=True, search=(0.05, 0.5), doc="length of a rise, in units"
        ),
        "base": Hyper(0.1, 0.0, 1.0, search=(0.01, 0.5), log=True, doc="lowest multiplier"),
        "gamma": Hyper(0.1, 0.0, 1.0, open_low=True, doc="factor of each unit, for exp"),
    }
    options: ClassVar[Mapping[str, Option]] = {
        "cycle": Option("triangular", "how the height goes", ("triangular", "triangular2", "exp")),
        "unit": UNIT,
    }

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        unit = self.unit_steps(T, h)
        x = t / (h["half_cycle"] * unit)
        cycle = (x / 2.0 + WHOLE).floor()  # from 0
        height = (1.0 - (x - 2.0 * cycle - 1.0).abs()).clamp(min=0.0)
        if self.chosen["cycle"] == "triangular2":
            height = height * torch.exp2(-cycle)
        elif self.chosen["cycle"] == "exp":
            height = height * h["gamma"] ** (t / unit)
        return h["base"] + (1.0 - h["base"]) * height

    @override
    def reach(self, T: int, h: Mapping[str, float], prefix: str) -> None:
        peak = self.steps_of(h["half_cycle"], T, h)
        if peak >= T:
            raise InvalidInput(
                f"{prefix}half_cycle", f"the first peak comes after {peak:g} steps of {T}: never"
            )
