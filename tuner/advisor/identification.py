"""Whether trials can tell lr*(B) at all, and which further trials would."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner.advisor.curves import BatchOptimum

LEAST_BATCH_SIZES = 3
LEAST_SPAN = 8.0
LADDER = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of kappa at which to try the lr of a new batch size: from keep over sqrt to linear."""


def wanted(optima: Sequence[BatchOptimum]) -> tuple[dict[str, float], ...]:
    """Trials that would close the gaps: bounds to step over, and batch sizes to reach.

    At a batch size without an interior optimum: beyond its bound, in half octaves. Where there are
    too few batch sizes, or too narrow a span: the ladder ``lr kappa^{0, 1/4, 1/2, 3/4, 1}`` from
    the nearest optimum.
    """
    return (*_over_bounds(optima), *_new_sizes(optima))


def _over_bounds(optima: Sequence[BatchOptimum]) -> list[dict[str, float]]:
    out: list[dict[str, float]] = []
    for o in optima:
        if o.kind == "interior" or (o.low is None and o.high is None):
            continue
        if o.low is not None and o.high is not None:
            gap = math.log2(o.high / o.low)
            start, steps = o.low, [gap * i / 6 for i in range(1, 6)]
        elif o.low is not None:
            start, steps = o.low, [0, 0.5, 1, 1.5, 2]
        else:
            start, steps = o.high or 0.0, [0, -0.5, -1, -1.5, -2]
        out += [{"batch_size": o.batch_size, "lr": start * 2.0**step} for step in steps]
    return out


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
