"""Optimizers: one formula a file, for one model or for a population of trials.

- ``tuner.optimizers.get("adamw")`` is the rule: names, ranges and two pure functions.
- ``tuner.optimizers.AdamW(model.parameters(), lr=1e-3)`` is the same rule as an ordinary
  ``torch.optim.Optimizer``; so is ``create("adamw", model.parameters(), lr=1e-3)``.
- Packages outside join through the entry point group ``tuner.optimizers``.

Example:
    >>> from torch import nn
    >>> model = nn.Linear(2, 1)
    >>> optimizer = create("adamw", model.parameters(), lr=1e-3, beta2=0.95)
    >>> optimizer.param_groups[0]["beta2"]
    0.95
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tuner.optimizers.rule import Dims, Hyper, Prior, Rule, Tensors
from tuner.optimizers.torch import Params, RuleOptimizer, face
from tuner.registry import Registry

__all__ = [
    "Dims",
    "Hyper",
    "Prior",
    "Rule",
    "RuleOptimizer",
    "Tensors",
    "create",
    "get",
    "names",
    "register",
    "registry",
]

registry: Registry[Rule] = Registry("optimizer", "tuner.optimizers")

R = TypeVar("R", bound=type[Rule])


def register(name: str) -> Callable[[R], R]:
    """Class decorator: names the rule and enters its default form into the registry."""

    def decorate(rule: R) -> R:
        rule.name = name
        registry.add(name, rule())
        return rule

    return decorate


def get(name: str, field: str = "") -> Rule:
    """The rule of that name.

    Raises:
        UnknownName: No rule has it; the message lists those there are.
    """
    return registry.get(name, field)


def names() -> list[str]:
    """All names, sorted."""
    return registry.names()


def create(name: str, params: Params, **settings: Any) -> RuleOptimizer:
    """The ordinary optimizer by name; ``settings`` are hyperparameters and options of the rule.

    Raises:
        UnknownName: There is no such optimizer.
        InvalidInput: A setting is unknown or outside its range.
    """
    return face(type(get(name)))(params, **settings)


def __getattr__(name: str) -> type[RuleOptimizer]:
    if name[:1].isupper():  # a class name; modules and dunders are lower case
        for _, rule in registry.items():
            if type(rule).__name__ == name:
                return face(type(rule))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
