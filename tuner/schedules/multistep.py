"""Cuts at given times; as torch's ``MultiStepLR`` with ``unit: step`` (or ``epoch``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.optimizers.rule import Hyper
from tuner.schedules import register
from tuner.schedules.schedule import GAMMA, UNIT, WHOLE, Option, Schedule, Tensors, number

MOST = 1000


def _milestones(value: Any, field: str) -> list[float]:
    """Increasing positive numbers, from a list or from text such as ``"0.5, 0.75"``.

    Text, because a choice among several lists of milestones has to be a scalar.
    """
    if isinstance(value, str):
        try:
            value = [float(part) for part in value.split(",")]
        except ValueError:
            raise InvalidInput(field, f"{value!r} is no list of numbers") from None
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MOST:
        raise InvalidInput(field, f"a list of 1 to {MOST} times is needed")
    times = [number(item, f"{field}.{i}") for i, item in enumerate(value)]
    for i, (before, after) in enumerate(zip([0.0, *times], times, strict=False)):
        if not before < after < float("inf"):
            raise InvalidInput(f"{field}.{i}", "milestones are positive, finite and increase")
    return times


@register("multistep")
class MultiStep(Schedule):
    """Cuts the learning rate by ``gamma`` at every milestone.

    Milestones are fractions of the budget by default; half and three quarters are those of He et
    al., "Deep Residual Learning for Image Recognition", 2015, https://arxiv.org/abs/1512.03385.
    """

    summary = "A cut by the same factor at each given time."
    formula = "gamma^(number of milestones <= t)"
    reference = "https://arxiv.org/abs/1512.03385"
    jumps = True
    hyper: ClassVar[Mapping[str, Hyper]] = {"gamma": GAMMA}
    options: ClassVar[Mapping[str, Option]] = {
        "milestones": Option("0.5, 0.75", "times of the cuts, in units", parse=_milestones),
        "unit": UNIT,
    }

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        time = t / self.unit_steps(T, h) + WHOLE
        passed = torch.zeros_like(time)
        for milestone in self.chosen["milestones"]:
            passed = passed + (time >= milestone)
        return h["gamma"] ** passed

    @override
    def reach(self, T: int, h: Mapping[str, float], prefix: str) -> None:
        for i, milestone in enumerate(self.chosen["milestones"]):
            at = self.steps_of(milestone, T, h)
            if at >= T:
                raise InvalidInput(
                    f"{prefix}milestones.{i}", f"this cut comes after {at:g} steps of {T}: never"
                )
