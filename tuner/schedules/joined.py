"""Composition: one schedule after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.schedules import register, registry
from tuner.schedules.schedule import Option, Schedule, Tensors, number

MOST = 16


def _parts(value: Any, field: str) -> list[dict[str, Any]]:
    """A list of mappings, each with ``schedule``, ``share`` and that schedule's settings.

    The same as text is ``"constant share=3; linear final=0.1"``: in a study file a value, and each
    of several choices, is a scalar.
    """
    if isinstance(value, str):
        value = [_part(text, f"{field}.{i}") for i, text in enumerate(value.split(";"))]
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MOST:
        raise InvalidInput(field, f"a list of 1 to {MOST} parts is needed")
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(value):
        at = f"{field}.{i}"
        if not isinstance(part, Mapping) or "schedule" not in part:
            raise InvalidInput(at, "a part is a mapping that names its schedule")
        kind = registry.get(part["schedule"], f"{at}.schedule")
        if kind.stateful or kind is Joined:
            raise InvalidInput(f"{at}.schedule", f"{kind.name} cannot be a part")
        share = number(part.get("share", 1.0), f"{at}.share")
        if not 0.0 < share < float("inf"):
            raise InvalidInput(f"{at}.share", f"{share!r} is not a positive number")
        rest = {name: v for name, v in part.items() if name not in ("schedule", "share")}
        split(kind, rest, f"{at}.")
        parts.append({"schedule": kind.name, "share": share, **rest})
    return parts


def _part(text: str, field: str) -> dict[str, Any]:
    name, *settings = text.split() or [""]
    part: dict[str, Any] = {"schedule": name}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key in part:
            raise InvalidInput(field, f"{setting!r} is no setting, such as final=0.1")
        part[key] = {"true": True, "false": False}.get(value, value)
        try:
            part[key] = float(value)
        except ValueError:
            continue
    return part


def split(
    kind: type[Schedule], values: Mapping[str, Any], prefix: str
) -> tuple[Schedule, dict[str, float]]:
    """A schedule and its numeric settings, from one mapping that holds options and numbers.

    Raises:
        InvalidInput: Something is unknown or illegal; by name, after ``prefix``.
    """
    options = {name: v for name, v in values.items() if name in kind.options}
    for name, value in options.items():
        kind.options[name].read(value, f"{prefix}{name}")
    schedule = kind(**options)
    rest = {name: v for name, v in values.items() if name not in kind.options}
    return schedule, schedule.check(rest, prefix)


class _Part(NamedTuple):
    """One part with its arguments, and the step at which it begins."""

    schedule: Schedule
    t: Tensor
    T: Tensor
    h: Tensors
    start: Tensor


@register("joined")
class Joined(Schedule):
    """Each part runs for its ``share`` of the steps after the warm-up, on a clock of its own.

    The curve has no jumps between its parts: each multiplies on from the value where the one before
    ended. With ``continuous: false`` every part starts at its own value, as in torch's
    ``SequentialLR`` and optax's ``join_schedules``. A part that starts from 0 cannot be scaled, and
    is taken as it is. Where a part moves the momentum, as ``one_cycle`` does, it stays through the
    parts that follow where that one left it.

    Example:
        ``schedule.parts: constant share=3; linear final=0.1`` in a study, which is in Python also
        ``[{"schedule": "constant", "share": 3}, {"schedule": "linear", "final": 0.1}]``.
    """

    summary = "Several schedules one after another."
    formula = "m_1(t) for the first share of the steps, then m_1(end) m_2(t) / m_2(0), ..."
    jumps = True
    options: ClassVar[Mapping[str, Option]] = {
        "parts": Option(
            "constant; cosine final=0.1; linear",
            "the parts in order: a schedule, its share (1), and its settings",
            parse=_parts,
        ),
        "continuous": Option(
            True, "whether each part starts where the one before ended", (True, False)
        ),
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.parts: list[tuple[Schedule, dict[str, float], float]] = []
        total = sum(part["share"] for part in self.chosen["parts"])
        for i, part in enumerate(self.chosen["parts"]):
            rest = {name: v for name, v in part.items() if name not in ("schedule", "share")}
            schedule, settings = split(registry.get(part["schedule"]), rest, f"schedule.parts.{i}.")
            self.parts.append((schedule, settings, part["share"] / total))

    @property
    @override
    def counts_epochs(self) -> bool:
        return any(schedule.counts_epochs for schedule, _, _ in self.parts)

    @override
    def multiplier(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor:
        level = torch.ones_like(T)
        result = torch.ones_like(t * T)
        for i, part in enumerate(self._timed(t, T, h)):
            value = part.schedule.multiplier(part.t, part.T, part.h)
            if self.chosen["continuous"] and i:
                first = part.schedule.multiplier(torch.zeros_like(T), part.T, part.h)
                level = torch.where(first > 0.0, level / first.clamp(min=1e-300), 1.0)
            result = torch.where(t >= part.start, level * value, result)
            if self.chosen["continuous"]:
                end = part.schedule.within(part.T, part.T).clamp(min=0.0)
                level = level * part.schedule.multiplier(end, part.T, part.h)
        return result

    @override
    def momentum(self, t: Tensor, T: Tensor, h: Tensors) -> Tensor | None:
        result: Tensor | None = None
        for part in self._timed(t, T, h):
            value = part.schedule.momentum(part.t, part.T, part.h)
            if value is not None:
                before = torch.full_like(t * T, torch.nan) if result is None else result
                result = torch.where(t >= part.start, value, before)
        return result

    def _timed(self, t: Tensor, T: Tensor, h: Tensors) -> Iterator[_Part]:
        """The parts, each with its own clock, which stops where the part ends."""
        context = {**h, "warmup_steps": torch.zeros_like(h["warmup_steps"])}
        start = torch.zeros_like(T)
        for i, (schedule, settings, share) in enumerate(self.parts):
            length = share * T
            own = {name: torch.tensor(v, dtype=torch.float64) for name, v in settings.items()}
            local = t - start
            if i < len(self.parts) - 1:
                local = schedule.within(local, length)
            yield _Part(schedule, local.clamp(min=0.0), length, {**context, **own}, start)
            start = start + length

    @override
    def reach(self, T: int, h: Mapping[str, float], prefix: str) -> None:
        context = {**h, "warmup_steps": 0.0}
        for i, (schedule, settings, share) in enumerate(self.parts):
            steps = int(share * T)
            if steps < 1:
                raise InvalidInput(
                    f"{prefix}parts.{i}.share", f"no step of {T} is left to this part"
                )
            schedule.reach(steps, {**context, **settings}, f"{prefix}parts.{i}.")
