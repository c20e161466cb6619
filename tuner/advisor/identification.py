"""Whether trials can tell lr*(B) at all, and which further trials would."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from tuner.advisor.curves import BatchOptimum

LEAST_BATCH_SIZES = 3
LEAST_SPAN = 8.0
LADDER = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of kappa at which to try the lr of a new batch size: from keep over sqrt to linear."""
STEPS = (0.5, 1.0, 1.5, 2.0, 2.5)
"""Octaves beyond the outermost trial at which to look for an optimum beyond it."""
SAME_OCTAVES = 0.1
"""Rates as close as this, 7 %, tell the same."""


def wanted(
    optima: Sequence[BatchOptimum], tried: Mapping[int, Sequence[float]]
) -> tuple[dict[str, float], ...]:
    """Trials that would close the gaps: bounds to step over, and batch sizes to reach.

    At a batch size without an interior optimum: beyond its bound, in half octaves, or between its
    bounds, where the rates tried leave the widest gaps. Where there are too few batch sizes, or too
    narrow a span: the ladder ``lr kappa^{0, 1/4, 1/2, 3/4, 1}`` from the nearest optimum. A rate
    that was tried at its batch size is not wanted again.

    Args:
        optima: One for each batch size.
        tried: Rates of each batch size's trials, diverged ones included.
    """
    out: list[dict[str, float]] = []
    for one in (*_over_bounds(optima, tried), *_new_sizes(optima)):
        size = int(one["batch_size"])
        known = (
            *tried.get(size, ()),
            *(other["lr"] for other in out if other["batch_size"] == size),
        )
        if all(abs(math.log2(one["lr"] / lr)) > SAME_OCTAVES for lr in known):
            out.append(one)
    return tuple(out)


def _over_bounds(
    optima: Sequence[BatchOptimum], tried: Mapping[int, Sequence[float]]
) -> list[dict[str, float]]:
    out: list[dict[str, float]] = []
    for o in optima:
        if o.kind == "interior" or (o.low is None and o.high is None):
            continue
        known = tried.get(o.batch_size, ())
        if o.low is not None and o.high is not None:
            lrs = _between(o.low, o.high, known)
        elif o.low is not None:
            lrs = [max((o.low, *known)) * 2.0**step for step in STEPS]
        else:
            lrs = [min((o.high or 0.0, *known)) * 2.0**-step for step in STEPS]
        out += [{"batch_size": o.batch_size, "lr": lr} for lr in lrs]
    return out


def _between(low: float, high: float, known: Iterable[float]) -> list[float]:
    """As many rates as there are steps, each in the middle of the widest gap that is left."""
    marks = sorted({math.log2(lr) for lr in (low, high, *known) if low <= lr <= high})
    new: list[float] = []
    for _ in STEPS:
        widest = max(range(1, len(marks)), key=lambda i: marks[i] - marks[i - 1], default=0)
        if widest:
            new.append((marks[widest - 1] + marks[widest]) / 2)
            marks.insert(widest, new[-1])
    return [2.0**x for x in sorted(new)]


def _new_sizes(optima: Sequence[BatchOptimum]) -> list[dict[str, float]]:
    inside = {o.batch_size: o.lr for o in optima if o.kind == "interior" and o.lr is not None}
    if not inside or not unidentified(list(inside)):
        return []
    first, last = min(inside), max(inside)
    if len(inside) == 1:
        targets = [last * 2, last * 4, last * 8]
    else:
        reach = max(last * 2, math.ceil(first * LEAST_SPAN))
        middle = [round(math.sqrt(first * reach))] if len(inside) < LEAST_BATCH_SIZES else []
        targets = [reach, *middle]
    out: list[dict[str, float]] = []
    for size in (target for target in targets if target not in inside):
        distance = {known: abs(math.log(known / size)) for known in inside}
        start = min(distance, key=distance.__getitem__)
        lrs = [inside[start] * (size / start) ** power for power in LADDER]
        out += [{"batch_size": size, "lr": lr} for lr in lrs]
    return out


def unidentified(sizes: Sequence[int]) -> str:
    """Why optima at these batch sizes cannot tell an exponent; empty when they can."""
    if len(sizes) < LEAST_BATCH_SIZES:
        return (
            f"{len(sizes)} batch sizes have an optimum between their trials, and it takes "
            f"{LEAST_BATCH_SIZES}"
        )
    span = max(sizes) / min(sizes)
    if span < LEAST_SPAN:
        return f"batch sizes span a factor of {span:.3g}, and it takes {LEAST_SPAN:g}"
    return ""
