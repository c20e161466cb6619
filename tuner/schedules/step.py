"""Step decay; as torch's ``StepLR`` with ``unit: step`` (or ``epoch``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import GAMMA, UNIT, WHOLE, Option, Schedule, Tensors


@register("step")
class Step(Schedule):
    """Cuts the learning rate by ``gamma`` after every ``every`` units of time."""

    summary = "A cut by the same factor at regular intervals."
    formula = "gamma^floor(t / every)"
    jumps = True
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "every": Hyper(
            1 / 3,
            0.0,
            1e12,
            open_low=True,
            search=(0.1, 0.5),
            doc="time between two cuts, in units",
        ),
        "gamma": GAMMA,
    }
    options: ClassVar[Mapping[str, Option]] = {"unit": UNIT}

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        every = h["every"] * self.unit_steps(T, h)
        return h["gamma"] ** (t / every + WHOLE).floor()

    @override
    def reach(self, T: int, h: Mapping[str, float], prefix: str) -> None:
        first = self.steps_of(h["every"], T, h)
        if first >= T:
            raise InvalidInput(
                f"{prefix}every", f"the first cut comes after {first:g} steps of {T}: never"
            )
