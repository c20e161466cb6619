"""The ordinary face: a schedule as a ``torch.optim.lr_scheduler.LRScheduler``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedules
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.schedules import registry, warmup
from tuner.schedules.joined import split
from tuner.schedules.plateau import Plateau, PlateauState
from tuner.schedules.schedule import CONTEXT, Tensors, momentum_name, number


class LRScheduler(torch_schedules.LRScheduler):
    """Any schedule of the registry, for any ``torch.optim.Optimizer``.

    Call :meth:`step` after every optimizer step, as with torch's own. A schedule that sets the
    momentum too (``one_cycle``) writes to ``momentum``, ``beta1`` or ``betas[0]``, whichever a
    group has. For ``plateau``, call :meth:`observe` with the metric after each evaluation as well.
    After ``total_steps`` the rate stays where it is: at the end of a curve, at the last step of a
    schedule that jumps, whose next value might be another cycle's.

    Args:
        optimizer: The optimizer; the ``lr`` of each of its groups is what is multiplied.
        schedule: A name, such as ``cosine``.
        total_steps: All optimizer steps, warm-up included.
        warmup_steps: Those of the warm-up.
        warmup_shape: A name in ``tuner.schedules.warmup.SHAPES``.
        steps_per_epoch: For settings in epochs (``unit="epoch"``), and formulas that name them.
        last_epoch: The last step taken, to resume without a ``state_dict``; -1 to begin.
        **settings: The schedule's own, such as ``final=0.1``.

    Raises:
        InvalidInput: A setting is unknown or illegal, counts epochs of unknown length, or is never
            reached; or a formula is not finite or negative at some step. As before a study.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
        >>> scheduler = LRScheduler(optimizer, "linear", total_steps=4)
        >>> for _ in range(3):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: str = "constant",
        *,
        total_steps: int,
        warmup_steps: int = 0,
        warmup_shape: str = "linear",
        steps_per_epoch: float | None = None,
        last_epoch: int = -1,
        **settings: Any,
    ) -> None:
        if total_steps < 1:
            raise InvalidInput("total_steps", f"{total_steps} is below 1")
        if not 0 <= warmup_steps < total_steps:
            raise InvalidInput(
                "warmup_steps", f"{warmup_steps} steps leave none of {total_steps} to the schedule"
            )
        if warmup_shape not in warmup.SHAPES:
            known = ", ".join(warmup.SHAPES)
            raise InvalidInput("warmup_shape", f"{warmup_shape!r} is none of {known}")
        self._schedule, self._settings = split(registry.get(schedule), settings, "")
        if steps_per_epoch is None:
            if self._schedule.counts_epochs:
                raise InvalidInput(
                    "steps_per_epoch", "this schedule counts epochs: how many steps has one?"
                )
            steps_per_epoch = 1.0
        elif not 0.0 < number(steps_per_epoch, "steps_per_epoch") < math.inf:
            raise InvalidInput("steps_per_epoch", f"{steps_per_epoch!r} is no positive number")
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.warmup_shape = warmup_shape
        self.steps_per_epoch = float(steps_per_epoch)
        self.plateau: dict[str, Tensor] | None = None
        self._reach(optimizer)
        super().__init__(optimizer, last_epoch)

    def _reach(self, optimizer: Optimizer) -> None:
        """Refuses what a study would; before the optimizer is touched."""
        if self._schedule.stateful:  # observed as often as one likes
            return
        for lr in {float(g.get("initial_lr", g["lr"])) for g in optimizer.param_groups}:
            h = {**self._values(), "lr0": lr}
            self._schedule.reach(self.total_steps - self.warmup_steps, h, "")

    @override
    def step(self, epoch: int | None = None) -> None:
        """To the next step's rate; a metric goes to :meth:`observe`.

        Raises:
            InvalidInput: A metric was given to ``plateau``, as torch's would have it.
        """
        followed = isinstance(self._schedule, Plateau)
        if followed and not isinstance(epoch, int | None):  # torch's SequentialLR gives 0
            raise InvalidInput(
                "epoch",
                "plateau hears of its metric through observe(metric), after each evaluation; "
                "step() takes none, and follows every optimizer step",
            )
        super().step(epoch)

    @override
    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group at step ``last_epoch``; sets the momentum where scheduled."""
        h = self._hyper()
        step = torch.tensor(float(self.last_epoch), dtype=torch.float64)
        T = torch.tensor(float(self.total_steps - self.warmup_steps), dtype=torch.float64)
        t = self._schedule.within((step - self.warmup_steps).clamp(min=0.0), T)
        factor = warmup.factor(self.warmup_shape, step, h["warmup_steps"])
        momentum = self._schedule.momentum(t, T, h)
        if momentum is not None and not momentum.isnan():
            for group in self.optimizer.param_groups:
                _set_momentum(group, float(momentum))
        if self.last_epoch < self.warmup_steps:
            multiplier = self._schedule.warm_level(T, h) * factor
        else:
            multiplier = self._schedule.multiplier(t, T, h)
        multiplier = multiplier.expand(len(self.base_lrs))
        return [float(b) * float(m) for b, m in zip(self.base_lrs, multiplier, strict=True)]

    def observe(self, metric: float) -> None:
        """Tells ``plateau`` a new value of its metric; a cut acts from the next :meth:`step` on."""
        if not isinstance(self._schedule, Plateau):
            raise InvalidInput("schedule", f"{self._schedule.name} follows no metric")
        value = torch.tensor(float(metric), dtype=torch.float64).expand(len(self.base_lrs))
        self.plateau = self._schedule.observe(self._state(), value, self._hyper()).to_dict()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors only, so that ``torch.load`` reads it with ``weights_only``."""
        state = super().state_dict()
        del state["_schedule"]
        return {**state, "schedule": [self._schedule.name, self._schedule.chosen]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`, schedule and settings included."""
        state = dict(state_dict)
        name, chosen = state.pop("schedule")
        self._schedule = registry.get(name)(**chosen)
        super().load_state_dict(state)

    def _state(self) -> PlateauState:
        if self.plateau is None:
            return PlateauState.fresh((len(self.base_lrs),))
        return PlateauState.from_dict(self.plateau)

    def _values(self) -> dict[str, float]:
        around = {"warmup_steps": self.warmup_steps, "steps_per_epoch": self.steps_per_epoch}
        return {**CONTEXT, **self._settings, **around}

    def _hyper(self) -> Tensors:
        h = {name: torch.tensor(v, dtype=torch.float64) for name, v in self._values().items()}
        h["lr0"] = torch.tensor([float(lr) for lr in self.base_lrs], dtype=torch.float64)
        h["plateau"] = self._state().factor
        return h


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    name = momentum_name(group)
    if name:
        group[name] = (momentum, *group[name][1:]) if name == "betas" else momentum
