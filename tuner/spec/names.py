"""The names a space may use with a task, and the values that are legal for each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuner import optimizers, schedules
from tuner.errors import InvalidInput
from tuner.optimizers import Hyper
from tuner.schedules import plan
from tuner.spaces import Categorical, Constant, Float, Int, Parameter, Scalar, Space
from tuner.tasks import Setting
from tuner.training.slot import rounded_up, takes_scales

DEFAULT_OPTIMIZER = "adamw"
LR_SCALE = "lr_scale."
MONITOR = f"{plan.PREFIX}monitor"

COMMON: dict[str, Hyper] = {
    "batch_size": Hyper(32, low=1, high=2**31, doc="samples an optimizer step"),
    "epochs": Hyper(20, low=0, open_low=True, high=10**6, doc="length of a full training"),
    "label_smoothing": Hyper(0.0, low=0.0, high=1.0, open_high=True, doc="share of uniform target"),
    "clip_norm": Hyper(math.inf, low=0.0, open_low=True, doc="largest norm of a gradient"),
    "dropout": Hyper(0.0, low=0.0, high=1.0, open_high=True, doc="share of activations dropped"),
    "warmup_fraction": Hyper(
        0.0, low=0.0, high=1.0, open_high=True, doc="share of steps over which lr rises first"
    ),
}
"""What every task understands beside the optimizer's and the schedule's own names."""
CHOSEN: dict[str, Setting] = {
    "precision": Setting(
        "fp32", "of the forward pass; bf16 is for GPUs that have it", choices=("fp32", "bf16")
    ),
}
"""The same, where the values are words."""
UNSAID: dict[str, Scalar] = {
    "optimizer": DEFAULT_OPTIMIZER,
    "schedule": "constant",
    "warmup": "linear",
    "precision": "fp32",
    **{name: COMMON[name].default for name in ("batch_size", "label_smoothing")},
}
"""What every task trains with where the space does not say."""
NAMED = ("optimizer", "schedule")
"""Names under which others mean something."""
WHOLE = ("batch_size",)
LARGE = 2**20
"""Training samples of a task of which that is not known: enough for any schedule to unfold."""


def values(parameter: Parameter | None) -> list[Scalar]:
    """All values of a constant or of choices; nothing for a range."""
    if isinstance(parameter, Constant):
        return [parameter.value]
    return list(parameter.choices) if isinstance(parameter, Categorical) else []


def extremes(parameter: Parameter, field: str) -> list[tuple[str, Scalar]]:
    """The values between which all others lie, each with the field that names it."""
    if isinstance(parameter, Constant):
        return [(field, parameter.value)]
    if isinstance(parameter, Categorical):
        return [(f"{field}.choices[{i}]", v) for i, v in enumerate(parameter.choices)]
    return [(f"{field}.low", parameter.low), (f"{field}.high", parameter.high)]


def largest(parameter: Parameter | None) -> float | None:
    """The largest number that a parameter takes; None where it has none."""
    if parameter is None:
        return None
    numbers = [
        float(v)
        for _, v in extremes(parameter, "")
        if isinstance(v, int | float) and not isinstance(v, bool)
    ]
    return max(numbers, default=None)


def check_space(
    space: Space,
    settings: Mapping[str, Setting],
    metrics: Sequence[str],
    train_size: int | None,
    epochs: float,
) -> None:
    """Refuses names that nothing reads and values that something cannot take.

    Args:
        space: What is searched.
        settings: What the task understands beside the common names.
        metrics: What it measures.
        train_size: Its training samples; None where only a worker can count them.
        epochs: Of a full training.

    Raises:
        InvalidInput: Names the field, such as ``space.lr.low``.
    """
    rules = _rules(space)
    scheduled = plan.config_names()
    for name, parameter in space.parameters.items():
        field = f"space.{name}"
        if name in NAMED:
            continue
        if any(name in rule.hyper for rule in rules.values()):
            _check_hyper(name, parameter, rules, field)
        elif name in settings:
            _check_setting(parameter, settings[name], field)
        elif name in COMMON:
            _check_numbers(parameter, COMMON[name], field, whole=name in WHOLE)
        elif name in CHOSEN:
            _check_setting(parameter, CHOSEN[name], field)
        elif name.startswith(LR_SCALE) and len(name) > len(LR_SCALE):
            _check_numbers(parameter, Hyper(1.0, low=0.0), field)
            _check_scalable(parameter, rules, field)
        elif name not in scheduled:
            raise InvalidInput(field, _unknown(name, settings, rules))
    for at, value in _ends(space, "batch_size"):
        if train_size is not None and isinstance(value, int | float) and value > train_size:
            raise InvalidInput(at, f"{value!r} is more than the {train_size} training samples")
    _check_schedules(space, metrics, train_size or LARGE, epochs)


def unsaid(space: Space) -> dict[str, Scalar]:
    """What trials of this space train with where it does not say, as far as all agree on it."""
    if any(name in space.parameters and not always(space, name) for name in NAMED):
        return UNSAID
    said: dict[str, set[Scalar]] = {name: {value} for name, value in UNSAID.items()}
    for rule in _rules(space).values():
        for name, hyper in rule.hyper.items():
            said.setdefault(name, set()).add(hyper.default)
    for schedule in values(space.parameters.get("schedule", Constant(UNSAID["schedule"]))):
        kind = schedules.registry.get(str(schedule))
        said.setdefault("warmup_fraction", set()).add(kind.default_warmup_fraction)
        for name, hyper in kind.hyper.items():
            said.setdefault(plan.PREFIX + name, set()).add(hyper.default)
        for name, option in kind.options.items():
            said.setdefault(plan.PREFIX + name, set()).add(option.default)
    return {name: one for name, (one, *others) in said.items() if not others}


def always(space: Space, name: str) -> bool:
    """Whether every trial of this space says ``name``."""
    parameter = space.parameters.get(name)
    return parameter is not None and not parameter.when


def chosen_optimizers(space: Space) -> dict[str, str]:
    """The optimizers that trials may train with, by name, each with the field that names it."""
    parameter = space.parameters.get("optimizer")
    if isinstance(parameter, Float | Int):
        raise InvalidInput("space.optimizer", "is the name of an optimizer, or choices of such")
    found = [] if parameter is None else extremes(parameter, "space.optimizer")
    chosen = {str(name): at for at, name in found}
    return chosen if always(space, "optimizer") else {DEFAULT_OPTIMIZER: "", **chosen}


def _rules(space: Space) -> dict[str, optimizers.Rule]:
    return {name: optimizers.get(name, at) for name, at in chosen_optimizers(space).items()}


def _check_hyper(
    name: str, parameter: Parameter, rules: Mapping[str, optimizers.Rule], field: str
) -> None:
    """A hyperparameter must be legal for every optimizer under which it is active."""
    wanted = parameter.when.get("optimizer")
    for optimizer, rule in rules.items():
        if name in rule.hyper and (wanted is None or optimizer in wanted):
            _check_numbers(parameter, rule.hyper[name], field)


def _check_scalable(parameter: Parameter, rules: Mapping[str, optimizers.Rule], field: str) -> None:
    """Parts of a model can have rates of their own only under a rule that treats parts alone."""
    wanted = parameter.when.get("optimizer")
    for optimizer, rule in rules.items():
        if not takes_scales(rule) and (wanted is None or optimizer in wanted):
            raise InvalidInput(
                field,
                f"{optimizer} keeps numbers of the whole model, so it has one rate only; "
                "`when` can say for which optimizers this is",
            )


def _check_numbers(parameter: Parameter, hyper: Hyper, field: str, *, whole: bool = False) -> None:
    for at, value in extremes(parameter, field):
        if isinstance(value, bool):
            value = float(value)  # noqa: PLW2901  (a switch is 0 or 1)
        if not isinstance(value, int | float):
            raise InvalidInput(at, f"{value!r} is not a number")
        if whole and value != int(value):
            raise InvalidInput(at, f"{value!r} is not a whole number")
        hyper.check(at, value)
    if whole and isinstance(parameter, Float) and parameter.low != parameter.high:
        raise InvalidInput(f"{field}.type", "is float, but only whole numbers are legal: use int")


def _check_setting(parameter: Parameter, setting: Setting, field: str) -> None:
    for at, value in extremes(parameter, field):
        setting.check(at, value)


def _ends(space: Space, name: str) -> list[tuple[str, Scalar]]:
    parameter = space.parameters.get(name)
    return [] if parameter is None else extremes(parameter, f"space.{name}")


def _unknown(
    name: str, settings: Mapping[str, Setting], rules: Mapping[str, optimizers.Rule]
) -> str:
    if name.startswith(plan.PREFIX):
        schedule = sorted(n for n in plan.config_names() if n.startswith(plan.PREFIX))
        return f"no schedule has this setting; known: {', '.join(schedule)}"
    own = sorted({key for rule in rules.values() for key in rule.hyper})
    elsewhere = [n for n, rule in optimizers.registry.items() if name in rule.hyper]
    if elsewhere:
        return f"{' and '.join(rules)} has no {name}; {', '.join(elsewhere)} have"
    known = ["optimizer", *own, *COMMON, *CHOSEN, "schedule", "warmup", *settings]
    return f"nothing reads this name; known: {', '.join(dict.fromkeys(known))}"


def _check_schedules(space: Space, metrics: Sequence[str], train_size: int, epochs: float) -> None:
    """Builds the plan of configurations at the ends and the middle of the space."""
    parameter = space.parameters.get("schedule")
    if isinstance(parameter, Float | Int):
        raise InvalidInput("space.schedule", "is the name of a schedule, or choices of such")
    for at, name in _ends(space, "schedule"):
        schedules.registry.get(name if isinstance(name, str) else str(name), at)
    for config in corners(space):
        length = float(config.get("epochs", epochs))
        steps = optimizer_steps(config, train_size, length)
        made = plan.check(config, steps, "space.", epochs=length, lr=1.0)
        if made.plateau is not None:
            followed = _ends(space, MONITOR) or [
                (f"space.{MONITOR}", made.plateau.chosen["monitor"])
            ]
            for at, metric in followed:
                if metric not in metrics:
                    known = ", ".join(metrics)
                    raise InvalidInput(at, f"the task measures no {metric!r}; it has {known}")


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what our own workers train where it is silent."""
    optimizer = config.get("optimizer", DEFAULT_OPTIMIZER)
    return {
        "optimizer": optimizer,
        "lr": optimizers.get(str(optimizer)).hyper["lr"].default,
        "batch_size": int(COMMON["batch_size"].default),
        **config,
    }


def optimizer_steps(config: Mapping[str, Any], train_size: int, epochs: float) -> int:
    """How many steps a training of this configuration takes, the last batch of an epoch included.

    Args:
        config: The trial's.
        train_size: Training samples of its task.
        epochs: Of the training.
    """
    batch = config.get("batch_size", COMMON["batch_size"].default)
    per_epoch = max(1, math.ceil(train_size / min(max(int(batch), 1), train_size)))
    return max(1, rounded_up(per_epoch * epochs))


def corners(space: Space) -> Iterable[dict[str, Any]]:
    """Configurations whose numbers are all low, all middling or all high, for every schedule."""
    searched = list(space.searched)
    for u in (0.0, 0.5, 1.0):
        parameter = space.parameters.get("schedule")
        names = parameter.choices if isinstance(parameter, Categorical) else (None,)
        for name in names:
            params: dict[str, Any] = {}
            for key in searched:
                if key not in space.active(params):
                    continue
                chosen = name if key == "schedule" and name is not None else None
                params[key] = space.parameter(key).from_unit(u) if chosen is None else chosen
            yield space.fill(params)
