"""Polynomial decay; as optax's ``polynomial_schedule`` and torch's ``PolynomialLR`` (final 0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import FINAL, Schedule, Tensors, progress


@register("polynomial")
class Polynomial(Schedule):
    """``(1 - p)`` to the ``power``, between 1 and ``final``. Power 1 is linear decay."""

    summary = "A power of the remaining fraction: fast at first, slow at the end."
    formula = "r + (1 - r) (1 - p)^power"
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "power": Hyper(2.0, 0.0, 100.0, open_low=True, search=(0.5, 4.0), log=True, doc="exponent"),
        "final": FINAL,
    }

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        r = h["final"]
        return r + (1.0 - r) * (1.0 - progress(t, T)) ** h["power"]
