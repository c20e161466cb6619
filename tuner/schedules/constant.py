"""Constant: the learning rate as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import Schedule, Tensors


@register("constant")
class Constant(Schedule):
    """Multiplies every step by ``value``; the default of every trial."""

    summary = "The learning rate stays as it is."
    formula = "value"
    hyper: ClassVar[Mapping[str, Hyper]] = {"value": Hyper(1.0, 0.0, 1e6, doc="the multiplier")}

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        return h["value"] * torch.ones_like(t * T)
