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
from difflib import get_close_matches
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
    message = f"module {__name__!r} has no attribute {name!r}"
    if name[:1].isupper():  # a class name; modules and dunders are lower case
        faces = _faces()
        if name in faces:
            return face(faces[name])
        known = {kind.lower(): kind for kind in faces}
        close = get_close_matches(name.lower(), known, n=1)
        start = f"did you mean {known[close[0]]}? The" if close else "the"
        message += f"; {start} optimizers are {', '.join(sorted(faces))}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *_faces()})


def _faces() -> dict[str, type[Rule]]:
    """Rules by the names of their classes."""
    return {type(rule).__name__: type(rule) for _, rule in registry.items()}
