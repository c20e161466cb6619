"""Checkpoints that an optimizer takes over: its own as they are, torch's where they mean the same.

torch keeps for its Adam, AdamW, NAdam, SGD, RMSprop and Adagrad what our rules of those names keep,
partly under other names. What a checkpoint says, its rule and the rule's options too, must hold of
the optimizer that takes it over; anything else is refused before it can train wrongly. Checkpoints
of our own from before these were written down are taken for what they fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tuner.errors import InvalidInput
from tuner.optimizers.rule import Rule, Tensors

NOTES = frozenset(
    {
        *("params", "param_names", "maximize", "differentiable"),
        *("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"),
        *("name", "lr_scale"),
    }
)
"""What a group may hold besides settings: torch's own, what its schedulers write there, and what
those of Lightning and timm read."""

_HOW = frozenset({"foreach", "fused", "capturable"})
"""Settings of torch that say how its step is computed, not what it is."""
_OPTIONS = {"decoupled_weight_decay": "decoupled"}
"""Settings of torch that are options of a rule here, where the names are others."""
_ALIKE = (frozenset({"adam", "adamw", "amsgrad"}), frozenset({"sgd", "momentum", "nag"}))
"""Rules that differ in defaults and options alone, which a checkpoint tells."""
_DERIVED = frozenset({"mu_product"})
"""State of torch's NAdam that follows from the step."""


def settings_of(
    rule: Rule, group: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """A saved group in the rule's own names.

    Args:
        rule: Whose optimizer takes the checkpoint over.
        group: As saved.
        check: Refuses illegal settings; called where the group was not our own.

    Raises:
        InvalidInput: Names the first setting that the rule lacks, or that is otherwise here.
    """
    group = dict(group)
    saved = group.pop("rule", rule.name)
    if saved != rule.name and not any({saved, rule.name} <= alike for alike in _ALIKE):
        raise InvalidInput("rule", f"the checkpoint is one of {saved}, and this is {rule.name}")
    own: dict[str, Any] = {}
    translated: dict[str, Any] = {}
    options = rule.options
    for name, value in group.items():
        if name in rule.hyper or name in NOTES:
            own[name] = value
        elif name == "betas" and "beta1" in rule.hyper:
            translated |= {f"beta{i}": beta for i, beta in enumerate(value, 1)}
        elif name == "alpha" and "beta2" in rule.hyper:
            translated["beta2"] = value
        elif name == "initial_accumulator_value" and "initial_accumulator" in rule.hyper:
            translated["initial_accumulator"] = 0.0  # torch has put it into the sum
        elif _OPTIONS.get(name, name) in options:
            option = _OPTIONS.get(name, name)
            if options[option] != value:
                raise InvalidInput(
                    name,
                    f"{value!r} in the checkpoint, but this {rule.name} has "
                    f"{option}={options[option]!r}",
                )
        elif name not in _HOW:
            raise InvalidInput(
                name,
                f"the checkpoint has this setting and {rule.name} has none of that name: "
                "it is another optimizer's",
            )
    if translated:
        settings = {name: value for name, value in own.items() if name not in NOTES}
        check(translated | settings)
    # Ours go first: who loaded torch's names before they were translated trained with ours.
    return translated | own


def state_of(
    rule: Rule, entry: Mapping[str, Any], momentum: float, fresh: Callable[[], Tensors]
) -> dict[str, Any]:
    """The saved state of one parameter in the rule's own form.

    Args:
        rule: Whose optimizer takes the checkpoint over.
        entry: As saved; empty where the parameter has not been stepped.
        momentum: That of its group; 0 where the rule has none.
        fresh: Makes the parameter's state as it is before the first step.

    Raises:
        InvalidInput: Names the state that is missing, unknown, or of another shape.
    """
    kept = {k: v for k, v in entry.items() if v is not None and k not in _DERIVED}
    if not kept:
        return {}
    for name in kept:
        if name not in ("step", "train_params", *rule.state):
            raise InvalidInput(
                name, f"the checkpoint has this state and {rule.name} keeps none of that name"
            )
    start = fresh()
    if momentum == 0 and "momentum_buffer" in start:
        kept.setdefault("momentum_buffer", start["momentum_buffer"])  # torch then keeps none
    if rule.state == ("momentum_buffer",):
        kept.setdefault("step", 1)  # torch's SGD counts none; all that matters is the first
    for name in ("step", *rule.state):
        if name not in kept:
            raise InvalidInput(name, f"{rule.name} keeps this state and the checkpoint has none")
    for name, expected in start.items():
        kept[name] = _shaped(name, kept[name], expected)
    kept["step"] = int(kept["step"])
    return kept


def _shaped(name: str, value: Any, expected: Tensor) -> Tensor:
    """A saved tensor in the shape it is wanted in, and in a type no narrower than wanted."""
    if not isinstance(value, Tensor):
        raise InvalidInput(name, f"{value!r} in the checkpoint is no tensor")
    if value.shape != expected.shape:
        if value.numel() != 1 or expected.numel() != 1:
            raise InvalidInput(
                name,
                f"shape {list(value.shape)} in the checkpoint, {list(expected.shape)} here: "
                "are the parameters others, or in another order?",
            )
        value = value.reshape(expected.shape)
    fitting: Tensor = value.to(torch.promote_types(value.dtype, expected.dtype))
    return fitting
