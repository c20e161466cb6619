"""The form of a schedule: names, ranges and one pure function of the step.

The same formula serves one model (0-d tensors) and a population (``[S, K]`` steps by slots): every
argument broadcasts. Warm-up is no part of it (``tuner.schedules.warmup``): a schedule counts its
steps from the first one after the warm-up.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tuner.errors import InvalidInput
from tuner.optimizers.rule import Hyper

Tensors = Mapping[str, Tensor]

CONTEXT: Mapping[str, float] = {
    "warmup_steps": 0.0,
    "lr0": 1.0,
    "steps_per_epoch": 1.0,
    "plateau": 1.0,
}
"""What a schedule may read of its surroundings, beside its own settings, with neutral values.

``warmup_steps`` were taken before step 0, ``lr0`` is the learning rate that the multiplier
multiplies, and ``plateau`` is the factor of a stateful schedule at present.
"""

WHOLE = 1e-9
"""Slack when whole periods are counted: 0.3 * 10 steps are 3, whatever rounding makes of it."""


@dataclass(frozen=True)
class Option:
    """A setting that is no number on a range: a choice, a list, an expression.

    Args:
        default: Its value when none is given.
        doc: What it does, in a few words.
        choices: The legal values, or none where ``parse`` decides.
        parse: ``(value, field) -> value`` as kept; raises InvalidInput naming ``field``.
    """

    default: Any
    doc: str
    choices: tuple[Any, ...] = ()
    parse: Callable[[Any, str], Any] | None = None

    def read(self, value: Any, field: str) -> Any:
        """The value as kept; raises InvalidInput naming ``field`` where it is none."""
        if self.parse is not None:
            return self.parse(value, field)
        for choice in self.choices:
            if type(value) is type(choice) and value == choice:
                return choice
        known = ", ".join(str(c) for c in self.choices)
        raise InvalidInput(field, f"{value!r} is none of {known}")


UNIT = Option(
    "budget",
    "what a length of 1 means: all steps after the warm-up, an epoch, or an optimizer step",
    ("budget", "epoch", "step"),
)
"""Lengths are fractions of the budget by default: they mean the same at every batch size."""

FINAL = Hyper(0.0, 0.0, 1.0, search=(0.0, 0.2), doc="multiplier at the end")
GAMMA = Hyper(0.1, 0.0, 1.0, open_low=True, search=(0.01, 0.9), log=True, doc="factor of each cut")


def progress(t: Tensor, T: Tensor) -> Tensor:
    """The fraction of the schedule that is over, within [0, 1]."""
    return (t / T).clamp(0.0, 1.0)


def momentum_name(settings: Container[str]) -> str:
    """Which of an optimizer's settings a scheduled momentum goes to; empty where it has none.

    As in torch's ``OneCycleLR`` ``betas`` come before ``momentum``; a ``beta1`` by itself is the
    momentum of Adam's kin, and of Muon that of the vectors, beside a ``momentum`` of the matrices.
    """
    return next((name for name in ("betas", "momentum", "beta1") if name in settings), "")


class Schedule(ABC):
    """A schedule as data: an instance holds its options only; numbers are arguments.

    ``stateful`` marks one whose multiplier follows what was measured, ``jumps`` one that is not
    continuous in its step, by design.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    """In plain text; ``p`` is the fraction of the steps after warm-up, ``r`` is ``final``."""
    reference: ClassVar[str] = ""
    hyper: ClassVar[Mapping[str, Hyper]] = {}
    options: ClassVar[Mapping[str, Option]] = {}
    stateful: ClassVar[bool] = False
    jumps: ClassVar[bool] = False
    default_warmup_fraction: ClassVar[float] = 0.0

    def __init__(self, **options: Any) -> None:
        self.chosen: dict[str, Any] = {}
        for name, value in options.items():
            if name not in self.options:
                known = ", ".join([*self.hyper, *self.options]) or "none"
                raise InvalidInput(
                    f"schedule.{name}", f"{self.name} has no such option; its settings: {known}"
                )
            self.chosen[name] = self.options[name].read(value, f"schedule.{name}")
        for name, option in self.options.items():
            if name not in self.chosen:
                self.chosen[name] = option.read(option.default, f"schedule.{name}")
        self.key = json.dumps([self.name, self.chosen], sort_keys=True, default=str)

    @abstractmethod
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        """What the learning rate is multiplied by.

        Args:
            t: float64, the optimizer step from 0, after the warm-up; ``[]``, ``[K]`` or ``[S, K]``.
            T: float64, all steps after the warm-up, at least 1.
            h: The settings in ``hyper`` and the names of ``CONTEXT``, float64.

        Returns:
            float64, finite and not negative, of the broadcast shape.
        """

    def warm_level(self, T: Tensor, h: Tensors) -> Tensor:
        """The multiplier that a warm-up leads to; the value at step 0 by default."""
        return self.multiplier(torch.zeros_like(T), T, h)

    def within(self, t: Tensor, T: Tensor) -> Tensor:
        """``t``, kept at the end of the budget: whoever trains on does so at the last rate.

        One that jumps stays at its last step, lest it begin another cycle.
        """
        return t.minimum(T - 1.0 if self.jumps else T)

    def momentum(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor | None:
        """The momentum (or beta1) where the schedule sets it too, NaN at steps where it does not.

        None where it never does.
        """
        return None

    def reach(  # noqa: B027  (most schedules reach every setting)
        self, T: int, h: Mapping[str, float], prefix: str
    ) -> None:
        """Refuses settings that a budget of ``T`` steps never gets to.

        Raises:
            InvalidInput: Names the setting, where it would act, and the steps there are.
        """

    def __call__(self, t: object, T: object, **settings: object) -> Tensor:
        """:meth:`multiplier` for numbers, arrays or tensors, with defaults filled in."""
        values = {**CONTEXT, **{name: hyper.default for name, hyper in self.hyper.items()}}
        for name in settings:
            if name not in values:
                raise InvalidInput(name, f"{self.name} has no such setting")
        h = {name: torch.as_tensor(v, dtype=torch.float64) for name, v in values.items()}
        h |= {name: torch.as_tensor(v, dtype=torch.float64) for name, v in settings.items()}
        return self.multiplier(
            torch.as_tensor(t, dtype=torch.float64), torch.as_tensor(T, dtype=torch.float64), h
        )

    def check(self, values: Mapping[str, object], prefix: str = "schedule.") -> dict[str, float]:
        """All numeric settings, with defaults for those not given.

        Raises:
            InvalidInput: A setting is unknown, not a number, or outside its range; by name.
        """
        settings = {name: hyper.default for name, hyper in self.hyper.items()}
        for name, value in values.items():
            if name not in self.hyper:
                known = ", ".join([*self.hyper, *self.options]) or "none"
                raise InvalidInput(
                    f"{prefix}{name}", f"{self.name} has no such setting; its settings: {known}"
                )
            settings[name] = number(value, f"{prefix}{name}")
            self.hyper[name].check(f"{prefix}{name}", settings[name])
        return settings

    def unit_steps(self, T: Tensor, h: Tensors) -> Tensor:
        """Steps in a length of 1; only for schedules with the option ``unit``."""
        if self.chosen["unit"] == "budget":
            return T
        return h["steps_per_epoch"] if self.chosen["unit"] == "epoch" else torch.ones_like(T)

    @property
    def counts_epochs(self) -> bool:
        """Whether the multiplier depends on ``steps_per_epoch``."""
        return self.chosen.get("unit") == "epoch"

    def steps_of(self, length: float, T: int, h: Mapping[str, float]) -> float:
        """``length`` in steps; only for schedules with the option ``unit``."""
        per = {"budget": float(T), "epoch": h["steps_per_epoch"], "step": 1.0}
        return length * per[self.chosen["unit"]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.chosen.items())})"


def number(value: object, field: str) -> float:
    """``value`` as a float; raises InvalidInput naming ``field`` where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(field, f"{value!r} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise InvalidInput(field, "the number is too large") from None
