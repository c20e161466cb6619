"""Schedules: step in, multiplier of the learning rate out, one formula a file.

``tuner.schedules.get("cosine")`` is the formula, ``tuner.schedules.LRScheduler`` its ordinary face
for ``torch.optim``, and :mod:`tuner.schedules.plan` what a population of trials reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tuner.registry import Registry
from tuner.schedules.schedule import Option, Schedule

if TYPE_CHECKING:
    from tuner.schedules.torch import LRScheduler

registry: Registry[type[Schedule]] = Registry("schedule", "tuner.schedules")

S = TypeVar("S", bound=type[Schedule])


def register(name: str) -> Callable[[S], S]:
    """Adds a schedule class under ``name``."""

    def decorate(schedule: S) -> S:
        schedule.name = name
        registry.add(name, schedule)
        return schedule

    return decorate


def get(name: str, field: str = "schedule", **options: Any) -> Schedule:
    """The schedule of that name, with its options (such as ``decay_shape="linear"`` for ``wsd``).

    Raises:
        UnknownName: There is none; the message lists those there are.
        InvalidInput: An option is unknown or has no such choice.

    Example:
        >>> float(get("cosine")(25, 100))
        0.8535533905932737
        >>> float(get("cosine")(100, 100, final=0.1))
        0.1
    """
    return registry.get(name, field)(**options)


def names() -> list[str]:
    """All names, sorted."""
    return registry.names()


def __getattr__(name: str) -> object:
    # Late: the face needs this module to look schedules up.
    if name == "LRScheduler":
        from tuner.schedules.torch import LRScheduler  # noqa: PLC0415  (circular otherwise)

        return LRScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["LRScheduler", "Option", "Schedule", "get", "names", "register", "registry"]
