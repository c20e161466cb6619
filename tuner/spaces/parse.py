"""From the study file's form of a parameter to its value; one clear refusal for each mistake."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from tuner.errors import InvalidInput
from tuner.spaces.parameters import Categorical, Constant, Float, Int, Parameter, Prior, Scalar

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,99}")
LARGEST_INT = 2**53
"""Whole numbers up to here are exact as floats, and so in every model and every JSON reader."""
FINEST_STEP = 4e-8
"""Of the largest number of its range: Optuna, which takes a multiple of a step for one to 1e-8 of
it, would not know again what rounding moved further."""
MOST_CHOICES = 1000
LONGEST_TEXT = 500

KEYS: dict[str, tuple[str, ...]] = {
    "float": ("low", "high", "log", "step", "prior", "when", "default"),
    "int": ("low", "high", "log", "step", "prior", "when", "default"),
    "categorical": ("choices", "when", "default"),
    "constant": ("value", "when"),
}
"""What each type of parameter may say; the API's schema and the documentation read it too."""


def parse_parameter(raw: object, field: str) -> Parameter:
    """One parameter.

    Args:
        raw: A mapping with a ``type``, or a JSON scalar, which is a constant.
        field: Where it stands, for the message.

    Raises:
        InvalidInput: Naming the exact key that is wrong.
    """
    if not isinstance(raw, Mapping):
        return Constant(
            scalar(raw, field, "; a range is written {type: float, low: ..., high: ...}")
        )
    kind = raw.get("type")
    if kind is None:
        raise InvalidInput(f"{field}.type", f"is missing; one of {', '.join(KEYS)}")
    if not isinstance(kind, str) or kind not in KEYS:
        raise InvalidInput(f"{field}.type", f"{kind!r} is none of {', '.join(KEYS)}")
    for key in raw:
        if key != "type" and key not in KEYS[kind]:
            raise InvalidInput(
                f"{field}.{key}", f"a {kind} has no such key; it has {', '.join(KEYS[kind])}"
            )
    when = _when(raw.get("when"), f"{field}.when")
    if kind == "constant":
        if "value" not in raw:
            raise InvalidInput(f"{field}.value", "is missing")
        return Constant(scalar(raw["value"], f"{field}.value"), when)
    parameter: Parameter
    if kind == "categorical":
        parameter = Categorical(
            _choices(raw.get("choices"), f"{field}.choices"), when, raw.get("default")
        )
    elif kind == "float":
        parameter = _float(raw, field, when)
    else:
        parameter = _int(raw, field, when)
    if raw.get("default") is not None and raw["default"] not in parameter:
        raise InvalidInput(
            f"{field}.default", f"{raw['default']!r} is not a value of the parameter"
        )
    return parameter


def scalar(value: object, field: str, hint: str = "") -> Scalar:
    """``value`` if it is a JSON scalar (a finite number, text, true, false or null)."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(field, f"{value!r} is not a finite number")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST_INT:
        raise InvalidInput(field, "is a whole number beyond 2^53, which no model holds exactly")
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise InvalidInput(field, f"is longer than {LONGEST_TEXT} characters")
    if isinstance(value, str) and "\x00" in value:
        raise InvalidInput(field, "holds a NUL character")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InvalidInput(field, f"{_short(value)} is not a number, text, true, false or null{hint}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def number(value: object, field: str) -> float:
    """``value`` as a finite float."""
    if isinstance(value, str):
        hint = ""
        with contextlib.suppress(ValueError):
            hint = f"; it is text, write {float(value)!r}" if math.isfinite(float(value)) else ""
        raise InvalidInput(field, f"{_short(value)} is not a number{hint}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(field, f"{_short(value)} is not a number")
    try:
        out = float(value)
    except OverflowError:
        out = math.inf
    if not math.isfinite(out):
        raise InvalidInput(field, f"{_short(value)} is not a finite number")
    return out


def whole(value: object, field: str) -> int:
    """``value`` as a whole number that a float holds exactly."""
    out = number(value, field)
    if out != int(out):
        raise InvalidInput(field, f"{value!r} is not a whole number")
    if abs(out) > LARGEST_INT:
        raise InvalidInput(field, "is beyond 2^53, which no model holds exactly")
    return int(out)


def _required(raw: Mapping[str, Any], key: str, field: str) -> object:
    if key not in raw or raw[key] is None:
        raise InvalidInput(f"{field}.{key}", "is missing")
    return raw[key]


def _flag(raw: Mapping[str, Any], key: str, field: str) -> bool:
    value = raw.get(key, False)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidInput(f"{field}.{key}", f"{_short(value)} is not true or false")
    return value


def _float(raw: Mapping[str, Any], field: str, when: dict[str, tuple[Scalar, ...]]) -> Float:
    low = number(_required(raw, "low", field), f"{field}.low")
    high = number(_required(raw, "high", field), f"{field}.high")
    log = _flag(raw, "log", field)
    _ordered(low, high, field)
    if not math.isfinite(high - low):
        raise InvalidInput(f"{field}.high", "the range is wider than the largest float")
    if log and low <= 0:
        raise InvalidInput(f"{field}.low", f"{low!r}: a log range must lie above 0")
    if log and low != high and math.log(low) == math.log(high):
        raise InvalidInput(f"{field}.high", f"{high!r} is too close to low for a log range")
    step: float | None = None
    if raw.get("step") is not None:
        step = number(raw["step"], f"{field}.step")
        if log:
            raise InvalidInput(f"{field}.step", "a log range takes no step")
        if step <= 0:
            raise InvalidInput(f"{field}.step", f"{step!r} is not above 0")
        cells = (high - low) / step
        if step < FINEST_STEP * max(abs(low), abs(high)):
            raise InvalidInput(f"{field}.step", f"{step!r} is too fine for the range; leave it out")
        if abs(cells - round(cells)) > 1e-6 * max(1.0, cells * 1e-6):
            raise InvalidInput(
                f"{field}.step",
                f"{step!r} does not divide the range; the last value below {high!r} is "
                f"{low + math.floor(cells) * step!r}",
            )
    prior = _prior(raw.get("prior"), f"{field}.prior", log, low, high)
    default = raw.get("default")
    if default is not None:
        default = number(default, f"{field}.default")
    return Float(low, high, log, step, prior, when, default)


def _int(raw: Mapping[str, Any], field: str, when: dict[str, tuple[Scalar, ...]]) -> Int:
    low = whole(_required(raw, "low", field), f"{field}.low")
    high = whole(_required(raw, "high", field), f"{field}.high")
    log = _flag(raw, "log", field)
    _ordered(low, high, field)
    if log and low < 1:
        raise InvalidInput(f"{field}.low", f"{low!r}: a log range of whole numbers starts at 1")
    step = 1
    if raw.get("step") is not None:
        step = whole(raw["step"], f"{field}.step")
        if step < 1:
            raise InvalidInput(f"{field}.step", f"{step!r} is not above 0")
        if log and step != 1:
            raise InvalidInput(f"{field}.step", "a log range takes no step")
        if (high - low) % step:
            last = high - (high - low) % step
            raise InvalidInput(
                f"{field}.step",
                f"{step!r} does not divide the range; the last value below {high!r} is {last!r}",
            )
    prior = _prior(raw.get("prior"), f"{field}.prior", log, low, high)
    default = raw.get("default")
    if default is not None:
        default = whole(default, f"{field}.default")
    return Int(low, high, log, step, prior, when, default)


def _ordered(low: float, high: float, field: str) -> None:
    if low > high:
        raise InvalidInput(f"{field}.high", f"{high!r} is below low, {low!r}: the range is empty")


def _choices(raw: object, field: str) -> tuple[Scalar, ...]:
    if raw is None:
        raise InvalidInput(field, "is missing")
    if not isinstance(raw, list | tuple):
        raise InvalidInput(field, f"{_short(raw)} is not a list")
    if not raw:
        raise InvalidInput(field, "is an empty list")
    if len(raw) > MOST_CHOICES:
        raise InvalidInput(field, f"has {len(raw)} entries; at most {MOST_CHOICES}")
    out: list[Scalar] = []
    for i, value in enumerate(raw):
        choice = scalar(value, f"{field}[{i}]")
        if choice in out:  # == on purpose: 1, 1.0 and true are one key to every reader of a dict
            raise InvalidInput(f"{field}[{i}]", f"{choice!r} is there already")
        out.append(choice)
    return tuple(out)


def _prior(
    raw: object, field: str, log: bool, low: float, high: float
) -> Prior | Literal["none"] | None:
    if raw is None:
        return None
    if raw == "none" or raw is False:
        return "none"
    if not isinstance(raw, Mapping):
        raise InvalidInput(field, "is neither none nor {center: ..., spread: ...}")
    for key in raw:
        if key not in ("center", "spread", "scale"):
            raise InvalidInput(f"{field}.{key}", "a prior has center, spread and scale only")
    center = number(_required(raw, "center", field), f"{field}.center")
    spread = number(_required(raw, "spread", field), f"{field}.spread")
    scale = raw.get("scale", "log" if log else "linear")
    if scale not in ("linear", "log", "complement"):
        raise InvalidInput(f"{field}.scale", f"{scale!r} is none of linear, log, complement")
    if not low <= center <= high:
        raise InvalidInput(f"{field}.center", f"{center!r} is outside the range [{low}, {high}]")
    if not 1e-6 <= spread <= 1e6:
        raise InvalidInput(f"{field}.spread", f"{spread!r} is outside [1e-06, 1000000.0]")
    if scale == "log" and low <= 0:
        raise InvalidInput(f"{field}.scale", "log needs a range above 0")
    if scale == "complement" and high > 1:
        raise InvalidInput(f"{field}.scale", "complement needs a range that ends at 1 or below")
    return Prior(center, spread, scale)


def _when(raw: object, field: str) -> dict[str, tuple[Scalar, ...]]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise InvalidInput(field, "is not a mapping of a parameter to the values it is active for")
    out: dict[str, tuple[Scalar, ...]] = {}
    for parent, wanted in raw.items():
        at = f"{field}.{parent}"
        if not isinstance(parent, str):
            raise InvalidInput(at, "is not the name of a parameter")
        values = wanted if isinstance(wanted, list | tuple) else [wanted]
        if not values:
            raise InvalidInput(at, "is an empty list: the parameter could never be active")
        out[parent] = tuple(scalar(v, at) for v in values)
    return out
