"""What to try next: one file each, registered by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tuner.errors import InvalidInput
from tuner.registry import Registry
from tuner.samplers.history import COMPLETE, DIVERGED, PARTIAL, PENDING, VOID, History
from tuner.samplers.sampler import Proposal, Sampler, uniform, untaken
from tuner.spaces import Space, read_options

__all__ = [
    "COMPLETE",
    "DIVERGED",
    "PARTIAL",
    "PENDING",
    "VOID",
    "History",
    "Proposal",
    "Sampler",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "uniform",
    "untaken",
]

registry: Registry[type[Sampler]] = Registry("sampler", "tuner.samplers")


def register(name: str) -> Callable[[type[Sampler]], type[Sampler]]:
    """Class decorator: adds a sampler to the list under ``name``."""

    def decorate(cls: type[Sampler]) -> type[Sampler]:
        cls.name = name
        registry.add(name, cls)
        return cls

    return decorate


def get(name: str, field: str = "sampler.name") -> type[Sampler]:
    """The sampler class of that name."""
    return registry.get(name, field)


def names() -> list[str]:
    """All names, sorted."""
    return registry.names()


def create(
    raw: Mapping[str, Any], *, space: Space, objectives: int, seed: int, max_step: int = 1
) -> Sampler:
    """The sampler that a study's ``sampler`` mapping describes; its ``seed`` is read elsewhere.

    Raises:
        InvalidInput: The name, a setting or its value is wrong, or it cannot take so many
            objectives.
    """
    cls = get(raw.get("name", ""))
    given = {k: v for k, v in raw.items() if k not in ("name", "seed")}
    settings = read_options(cls.options, given, "sampler", cls.name)
    if objectives > cls.most_objectives:
        able = ", ".join(n for n, c in registry.items() if c.most_objectives >= objectives)
        raise InvalidInput(
            "sampler.name", f"{cls.name} takes {cls.most_objectives} objective; several: {able}"
        )
    sampler = cls(settings, space, objectives, seed)
    sampler.max_step = max_step
    return sampler
