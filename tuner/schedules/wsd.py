"""Warm-up, stable, decay (trapezoidal)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import FINAL, Option, Schedule, Tensors


@register("wsd")
class WSD(Schedule):
    """Stays at 1, then falls to ``final`` over the last ``decay`` fraction of all steps.

    Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
    2024, https://arxiv.org/abs/2405.18392, where a decay over 20 % of the steps as 1 - sqrt does
    best; the name is that of MiniCPM, https://arxiv.org/abs/2404.06395. The fraction is of all
    steps, warm-up included, and the decay never begins before the warm-up ends.
    """

    summary = "Stays at the full rate, then falls in the last part of the budget."
    formula = "1 until T_s, then r + (1 - r) (1 - sqrt((t - T_s) / (T - T_s)))"
    reference = "https://arxiv.org/abs/2405.18392"
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "decay": Hyper(
            0.2, 0.0, 1.0, open_low=True, search=(0.05, 0.5), doc="fraction of all steps in decay"
        ),
        "final": FINAL,
    }
    options: ClassVar[Mapping[str, Option]] = {
        "decay_shape": Option("sqrt", "how it falls", ("sqrt", "linear", "cosine")),
    }

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        length = torch.minimum(h["decay"] * (T + h["warmup_steps"]), T)
        x = ((t - (T - length)) / length).clamp(0.0, 1.0)
        if self.chosen["decay_shape"] == "sqrt":
            left = 1.0 - x.sqrt()
        elif self.chosen["decay_shape"] == "linear":
            left = 1.0 - x
        else:
            left = 0.5 * (1.0 + (math.pi * x).cos())
        return h["final"] + (1.0 - h["final"]) * left
