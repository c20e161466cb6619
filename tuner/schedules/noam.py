"""Inverse square root decay (Noam); as optax's and fairseq's, scaled to a peak of 1."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from tuner.schedules import register
from tuner.schedules.schedule import Schedule, Tensors


@register("noam")
class Noam(Schedule):
    """Warm-up, then the inverse square root of the step.

    Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762, equation 3:
    ``d^-0.5 min(s^-0.5, s W^-1.5)`` for ``s`` from 1. Its rise is a linear warm-up of ``W`` steps,
    so it is ours (``warmup_fraction``, 0.04 unless given: the paper's 4,000 of 100,000 steps), and
    what follows is ``sqrt(W / s)``: together the paper's curve divided by its peak. The paper's
    numbers result from ``lr = (d W)^-0.5``. Without a warm-up it is ``s^-0.5``.
    """

    summary = "Falls as one over the square root of the step, after its warm-up."
    formula = "sqrt(W / (t + W + 1)), t after W steps of warm-up"
    reference = "https://arxiv.org/abs/1706.03762"
    default_warmup_fraction = 0.04

    @override
    def warm_level(self, T: Tensor, h: Tensors) -> Tensor:
        return torch.ones_like(T)  # the last step of the warm-up is s = W, the peak

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        W = h["warmup_steps"]
        return (W.clamp(min=1.0) / (t + W + 1.0)).sqrt() * torch.ones_like(T)
