"""The settings of a sampler or a pruner, declared: type, default, legal range, and what it does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuner.errors import InvalidInput
from tuner.spaces.parse import number, whole

Kind = Literal["int", "float", "bool", "choice"]


@dataclass(frozen=True)
class Option:
    """One setting.

    Args:
        default: Taken when the study names none. None: chosen from the study, as ``doc`` says.
        kind: What a value must be; ``choice``: one of ``choices``.
        low: The least legal value; ``open_low`` excludes it.
        high: The greatest legal value; ``open_high`` excludes it.
        choices: The legal values of a ``choice``.
        doc: What it does, in one sentence.
    """

    default: Any
    kind: Kind
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    doc: str = ""

    def read(self, value: object, field: str) -> Any:
        """``value`` in its own type.

        Raises:
            InvalidInput: It has another type or lies outside the range; names ``field``.
        """
        if value is None and self.default is None:
            return None
        if self.kind == "bool":
            if not isinstance(value, bool):
                raise InvalidInput(field, f"{value!r} is not true or false")
            return value
        if self.kind == "choice":
            if value not in self.choices:
                raise InvalidInput(field, f"{value!r} is none of {', '.join(self.choices)}")
            return value
        read = whole(value, field) if self.kind == "int" else number(value, field)
        below = read <= self.low if self.open_low else read < self.low
        above = read >= self.high if self.open_high else read > self.high
        if below or above:
            left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
            raise InvalidInput(field, f"{value!r} is outside {left}{self.low}, {self.high}{right}")
        return read


def read_options(
    declared: Mapping[str, Option], given: Mapping[str, object], prefix: str, owner: str
) -> dict[str, Any]:
    """Every declared setting with its value, given or default.

    Raises:
        InvalidInput: A setting is unknown or its value illegal; names ``prefix.setting``.
    """
    for name in given:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise InvalidInput(f"{prefix}.{name}", f"{owner} has no such setting; it has: {known}")
    return {
        name: option.read(given[name], f"{prefix}.{name}") if name in given else option.default
        for name, option in declared.items()
    }
