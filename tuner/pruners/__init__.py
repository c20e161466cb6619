"""What to stop, and what to set aside: one file each, registered by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tuner.pruners.board import Board, Track
from tuner.pruners.pruner import CONTINUE, Decision, Pruner, Spawn
from tuner.registry import Registry
from tuner.spaces import Space, read_options

__all__ = [
    "CONTINUE",
    "Board",
    "Decision",
    "Pruner",
    "Spawn",
    "Track",
    "create",
    "get",
    "names",
    "register",
    "registry",
]

registry: Registry[type[Pruner]] = Registry("pruner", "tuner.pruners")


def register(name: str) -> Callable[[type[Pruner]], type[Pruner]]:
    """Class decorator: adds a pruner to the list under ``name``."""

    def decorate(cls: type[Pruner]) -> type[Pruner]:
        cls.name = name
        registry.add(name, cls)
        return cls

    return decorate


def get(name: str, field: str = "pruner.name") -> type[Pruner]:
    """The pruner class of that name."""
    return registry.get(name, field)


def names() -> list[str]:
    """All names, sorted."""
    return registry.names()


def create(
    raw: Mapping[str, Any], *, max_step: int, space: Space, seed: int, sign: float = 1.0
) -> Pruner:
    """The pruner that a study's ``pruner`` mapping describes; ``sign`` -1: the metric is maximised.

    Raises:
        InvalidInput: The name, a setting or its value is wrong; names it.
    """
    cls = get(raw.get("name", ""))
    given = {k: v for k, v in raw.items() if k != "name"}
    settings = read_options(cls.options, given, "pruner", cls.name)
    pruner = cls(settings, max_step, space, seed)
    pruner.sign = sign
    return pruner
