"""Numbers, times and sizes as a person writes them; the filters of the templates."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime

from tuner.service.thinning import LEAST_DIGITS, digits_of

DASH = "–"
ENDLESS = 1e300
"""Beyond it a bound is none."""
MINUTE, HOUR, DAY = 60, 3600, 86400


def num(value: object, digits: int = 3) -> str:
    """A number with its significant digits, anything else as text; nothing is a dash."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "NaN")
    size = abs(value)
    if 0.99 < size < 1:  # a decay rate, of which the distance to 1 is what counts
        text = f"{value:.{digits - 2 - math.floor(math.log10(1 - size))}f}".rstrip("0").rstrip(".")
    elif value == 0 or 1e-3 <= size < max(1e5, 10**digits):
        text = f"{value:.{digits}g}"
        if "e" in text:  # more digits before the point, after rounding too
            text = f"{value:.0f}"
    else:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def telling(values: Iterable[object], least: int = 3) -> int:
    """How many significant digits tell a row or a column of values apart, by the rule of pictures.

    Args:
        values: Those that stand beside each other; only fractions count, others are shown whole.
        least: Digits where that many do.
    """
    known = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    if len(set(known)) < 2:
        return least
    return least + digits_of(known) - LEAST_DIGITS


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    if whole < 2 * DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, roughly; the page's script replaces it by the local time on hover."""
    seconds = (now - moment).total_seconds()
    if seconds < 5:
        return "just now"
    if seconds < MINUTE:
        return f"{seconds:.0f} s ago"
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} ago"
    return moment.astimezone(UTC).isoformat()


def percent(share: float) -> str:
    """A share of the whole; never 100 % before it is."""
    return "100 %" if share >= 1 else f"{min(99, math.floor(100 * share))} %"


def within(given: str) -> str:
    """A filter of the table of trials, such as ``lr:0.001..0.01``, as a person says it."""
    name, _, kept = given.removeprefix("params.").partition(":")
    low, dots, high = kept.partition("..")
    if not dots:
        return f"{name}: {kept.replace('|', ', ')}"
    try:
        ends = float(low), float(high)
    except ValueError:
        return f"{name}: {kept}"
    if ends[0] <= -ENDLESS:
        return f"{name} ≤ {num(ends[1])}"
    if ends[1] >= ENDLESS:
        return f"{name} ≥ {num(ends[0])}"
    return f"{name} {num(ends[0])} to {num(ends[1])}"


def rate(value: float | None) -> str:
    """Things a second, with a thousands' letter."""
    if value is None or not math.isfinite(value):
        return DASH
    value = float(f"{value:.3g}")  # first, or 999 999 would be 1000 k
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{num(value / size)} {letter}"
    return num(value)


def size(value: float | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return DASH
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{num(float(value))} {unit}"
        value /= 1024
    return f"{num(value)} TiB"


FILTERS = {
    "num": num,
    "telling": telling,
    "duration": duration,
    "ago": ago,
    "percent": percent,
    "within": within,
    "rate": rate,
    "bytes": size,
    "shell": shlex.quote,
}
