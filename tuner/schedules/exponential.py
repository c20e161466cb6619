"""Exponential decay; as torch's ``ExponentialLR`` with ``unit: step``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import UNIT, Option, Schedule, Tensors


@register("exponential")
class Exponential(Schedule):
    """``gamma`` to the power of the time that has passed, in units of ``unit``.

    By default the unit is the whole budget, so ``gamma`` is the multiplier that the last step comes
    down to, at every batch size; torch and optax count steps (``unit: step``).
    """

    summary = "The same factor in every equal stretch of time."
    formula = "gamma^(t / unit)"
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "gamma": Hyper(
            0.01, 0.0, 1.0, open_low=True, search=(1e-3, 0.5), log=True, doc="factor of each unit"
        )
    }
    options: ClassVar[Mapping[str, Option]] = {"unit": UNIT}

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        return h["gamma"] ** (t / self.unit_steps(T, h))
