"""Cosine decay; as optax's ``cosine_decay_schedule`` and torch's ``CosineAnnealingLR``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import FINAL, Schedule, Tensors, progress


@register("cosine")
class Cosine(Schedule):
    """Half a cosine from 1 to ``final``, which it keeps afterwards.

    Loshchilov and Hutter, "SGDR", 2016, https://arxiv.org/abs/1608.03983, equation 5 without
    restarts. After its ``T_max`` torch's ``CosineAnnealingLR`` rises again; ours stays down.
    """

    summary = "Half a cosine down to the final multiplier."
    formula = "r + (1 - r) (1 + cos(pi p)) / 2"
    reference = "https://arxiv.org/abs/1608.03983"
    hyper: ClassVar[Mapping[str, Hyper]] = {"final": FINAL}

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        r = h["final"]
        return r + (1.0 - r) * 0.5 * (1.0 + (math.pi * progress(t, T)).cos())
