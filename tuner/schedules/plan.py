"""A trial's schedule over its whole training: what the population engine reads.

A plan joins what a trial's config says (``schedule``, ``schedule.*``, ``warmup_fraction``,
``warmup``) with the number of optimizer steps that its budget and batch size give, and answers with
tables of multipliers. :func:`stack` answers for all slots of a population in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tuner.errors import InvalidInput
from tuner.schedules import registry, warmup
from tuner.schedules.joined import split
from tuner.schedules.plateau import Plateau, PlateauState
from tuner.schedules.schedule import Schedule, number

PREFIX = "schedule."


def config_names() -> set[str]:
    """Every config name that some schedule or the warm-up understands."""
    own = {name for _, kind in registry.items() for name in (*kind.hyper, *kind.options)}
    return {"schedule", "warmup", "warmup_fraction", *(PREFIX + name for name in own)}


@dataclass(frozen=True)
class Plan:
    """One trial's schedule. Make it with :meth:`of`.

    Args:
        schedule: The formula with its options.
        settings: Its numbers.
        total_steps: All optimizer steps, warm-up included.
        warmup_steps: Those of the warm-up, fewer than ``total_steps``.
        warmup: Its shape.
        lr0: The trial's learning rate.
        steps_per_epoch: Optimizer steps in an epoch, or 1 where nobody said.
    """

    schedule: Schedule
    settings: Mapping[str, float]
    total_steps: int
    warmup_steps: int = 0
    warmup: str = "linear"
    lr0: float = 1.0
    steps_per_epoch: float = 1.0

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        total_steps: int,
        prefix: str = "",
        *,
        epochs: float | None = None,
        lr: float | None = None,
    ) -> Plan:
        """The plan of a config.

        Args:
            config: The trial's; other names than those of :func:`config_names` are not looked at,
                and settings of other schedules than the one named are inactive.
            total_steps: Optimizer steps of the whole training.
            prefix: What stands before the names in messages, such as ``space.``.
            epochs: Epochs of the whole training; ``config["epochs"]`` unless given.
            lr: The learning rate where the config has none.

        Raises:
            InvalidInput: A value is wrong, or the schedule does not fit ``total_steps``.
        """
        name = config.get("schedule", "constant")
        kind = registry.get(name, f"{prefix}schedule")
        if total_steps < 1:
            raise InvalidInput(f"{prefix}epochs", "the budget gives no optimizer step at all")
        schedule, settings = split(kind, _own(kind, config, prefix), f"{prefix}{PREFIX}")
        lr0 = number(config.get("lr", 1.0 if lr is None else lr), f"{prefix}lr")
        if epochs is None and config.get("epochs") is not None:
            epochs = number(config["epochs"], f"{prefix}epochs")
        per_epoch = total_steps / epochs if epochs else 1.0
        if schedule.counts_epochs and not epochs:
            raise InvalidInput(
                f"{prefix}epochs", "this schedule counts epochs: how many are there?"
            )
        shape = config.get("warmup", "linear")
        if not isinstance(shape, str) or shape not in warmup.SHAPES:
            known = ", ".join(warmup.SHAPES)
            raise InvalidInput(f"{prefix}warmup", f"{shape!r} is none of {known}")
        field = f"{prefix}warmup_fraction"
        fraction = number(config.get("warmup_fraction", kind.default_warmup_fraction), field)
        if not 0.0 <= fraction < 1.0:
            raise InvalidInput(field, f"{fraction!r} is outside [0, 1)")
        steps = round(fraction * total_steps)
        if steps >= total_steps:
            raise InvalidInput(field, f"a warm-up of {steps} steps leaves none of {total_steps}")
        return cls(schedule, settings, total_steps, steps, shape, lr0, per_epoch)

    @property
    def decay_steps(self) -> int:
        """Steps after the warm-up: the schedule's own T."""
        return self.total_steps - self.warmup_steps

    def reach(self, prefix: str = "") -> None:
        """Raises InvalidInput where a setting would act only after the last step."""
        h = {**self.settings, **self._context()}
        self.schedule.reach(self.decay_steps, h, f"{prefix}{PREFIX}")

    def table(
        self, start_step: int, count: int, factor: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """Multipliers of ``lr`` for ``count`` steps from ``start_step``, and the momenta if any.

        Args:
            start_step: The first optimizer step, from 0.
            count: How many.
            factor: The present factor of a stateful schedule (``PlateauState.factor``).

        Returns:
            float64 ``[count]``; the momentum likewise, NaN at steps at which the schedule leaves it
            alone, or None where it always does.
        """
        lr, momentum = stack([self], [start_step], count, [factor])
        return lr[:, 0], None if momentum is None else momentum[:, 0]

    @property
    def plateau(self) -> Plateau | None:
        """The stateful part, which wants :meth:`observe` after every evaluation, or None."""
        return self.schedule if isinstance(self.schedule, Plateau) else None

    def observe(self, state: PlateauState, metric: float) -> PlateauState:
        """The state after one evaluation; ``state`` itself unless the schedule is stateful.

        ``metric`` is the trial's ``plan.plateau.chosen["monitor"]``; NaN where it has none.
        """
        if self.plateau is None:
            return state
        h = {name: _scalar(v) for name, v in {**self.settings, "lr0": self.lr0}.items()}
        return self.plateau.observe(state, _scalar(metric), h)

    def _context(self) -> dict[str, float]:
        return {
            "warmup_steps": float(self.warmup_steps),
            "lr0": self.lr0,
            "steps_per_epoch": self.steps_per_epoch,
            "plateau": 1.0,
        }


def check(
    config: Mapping[str, Any],
    total_steps: int,
    prefix: str = "",
    *,
    epochs: float | None = None,
    lr: float | None = None,
) -> Plan:
    """The plan of a config, refused also where the schedule could not be reached in its budget.

    Raises:
        InvalidInput: Names the field, such as ``space.schedule.milestones.1``.
    """
    plan = Plan.of(config, total_steps, prefix, epochs=epochs, lr=lr)
    plan.reach(prefix)
    return plan


def stack(
    plans: Sequence[Plan],
    starts: Sequence[int],
    count: int,
    factors: Iterable[float] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The tables of all slots: slot k from its own step ``starts[k]``.

    Slots with the same formula are computed together, so a call costs little more for a thousand
    slots than for one.

    Returns:
        Multipliers of ``lr``, float64 ``[count, K]``, and momenta ``[count, K]``, NaN for slots
        and steps whose schedule leaves the momentum alone; None where all do.
    """
    now = [1.0] * len(plans) if factors is None else [float(f) for f in factors]
    if not len(plans) == len(starts) == len(now):
        raise ValueError(f"{len(plans)} plans, {len(starts)} starts, {len(now)} factors")
    lr = torch.ones(count, len(plans), dtype=torch.float64)
    momentum: Tensor | None = None
    groups: dict[tuple[Schedule, str], list[int]] = {}
    for k, plan in enumerate(plans):
        groups.setdefault((plan.schedule, plan.warmup), []).append(k)
    offsets = torch.arange(count, dtype=torch.float64)[:, None]
    for (schedule, shape), slots in groups.items():
        members = [plans[k] for k in slots]
        h = {name: _vector(p.settings[name] for p in members) for name in schedule.hyper}
        for name in ("warmup_steps", "lr0", "steps_per_epoch"):
            h[name] = _vector(float(getattr(p, name)) for p in members)
        h["plateau"] = _vector(now[k] for k in slots)
        T = _vector(float(p.decay_steps) for p in members)
        step = offsets + _vector(float(starts[k]) for k in slots)
        t = schedule.within((step - h["warmup_steps"]).clamp(min=0.0), T)
        value = schedule.multiplier(t, T, h)
        warming = step < h["warmup_steps"]
        if warming.any():
            warm = schedule.warm_level(T, h) * warmup.factor(shape, step, h["warmup_steps"])
            value = torch.where(warming, warm, value)
        lr[:, slots] = value
        beta = schedule.momentum(t, T, h)
        if beta is not None:
            if momentum is None:
                momentum = torch.full_like(lr, torch.nan)
            momentum[:, slots] = beta
    return lr, momentum


def _own(kind: type[Schedule], config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The settings of ``kind`` in ``config``; names of other schedules are inactive."""
    known = config_names()
    own: dict[str, Any] = {}
    for name, value in config.items():
        if not name.startswith(PREFIX):
            continue
        if name not in known:
            settings = ", ".join([*kind.hyper, *kind.options]) or "none"
            raise InvalidInput(
                f"{prefix}{name}", f"no schedule has this setting; {kind.name} has {settings}"
            )
        short = name.removeprefix(PREFIX)
        if short in kind.hyper or short in kind.options:
            own[short] = value
    return own


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _vector(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
