"""The range test of a study: what it trains, and the range of lr that its space has afterwards.

``space: auto`` asks for one, and any study may (``range_test: true``). A worker measures before the
first trial; here is what depends on the space alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tuner.advisor.range_test import RangeTest
from tuner.samplers.priors import at
from tuner.spaces import Categorical, Float, Int, Prior, Space
from tuner.spec import names

LEAST_FACTOR = 3.0
"""A range narrower than this is none to search."""


@dataclass(frozen=True)
class LrRange:
    """The learning rates that a study searches, and why these.

    Attributes:
        low: The least.
        high: The greatest.
        measured: Whether the test decided it; else it is the study file's.
        reasons: How it came about, one sentence each.
    """

    low: float
    high: float
    measured: bool
    reasons: tuple[str, ...]


def unfit(space: Space) -> str:
    """Why a range test makes no sense for a space; empty where it does."""
    if len(names.chosen_optimizers(space)) > 1:
        return "it tests one optimizer, and the space has several"
    lr = space.parameters.get("lr")
    if not isinstance(lr, Float) or not lr.log or lr.when or lr.low == lr.high:
        return "lr must be searched: a float on a log scale, without a condition"
    return ""


def tested(space: Space) -> dict[str, Any]:
    """The configuration that is trained: the centre of what is expected, at the middle batch size.

    The rate itself is not in it: the test goes through all of them.
    """
    params = at(space, np.full(len(space.searched), 0.5), informed=True)
    if "batch_size" in params:
        smallest, largest = batch_sizes(space)
        middle = math.sqrt(smallest * largest)
        parameter = space.parameters["batch_size"]
        if isinstance(parameter, Int):
            params["batch_size"] = parameter.nearest(middle)
        elif isinstance(parameter, Categorical):
            sizes = [c for c in parameter.choices if isinstance(c, int | float)]
            params["batch_size"] = min(sizes, key=lambda size: abs(math.log(size / middle)))
    config = names.completed(space.fill(params))
    config.pop("lr")
    return config


def batch_sizes(space: Space) -> tuple[int, int]:
    """The least and the greatest batch size of a space."""
    parameter = space.parameters.get("batch_size")
    default = int(names.COMMON["batch_size"].default)
    if parameter is None:
        return default, default
    found = [
        int(value)
        for _, value in names.extremes(parameter, "")
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return min(found), max(found)


def chosen(space: Space, found: RangeTest, *, within: bool, tried: Sequence[float] = ()) -> LrRange:
    """The range to search after a test.

    Args:
        space: As the study file has it; :func:`unfit` is empty for it.
        found: What the test found, for all batch sizes of the space.
        within: Whether the study file's own range is never left.
        tried: Rates of trials that are there already, such as enqueued ones: they stay inside.
    """
    given = _lr(space)
    kept = f"the study searches lr from {given.low:.3g} to {given.high:.3g} as it was submitted"
    if not found.measured:
        return LrRange(given.low, given.high, False, (*found.reasons, kept))
    reasons = list(found.reasons)
    low, high = _rounded(found.low, down=True), _rounded(found.high, down=False)
    if not within:
        # A margin about what was measured is no reason to search where nobody would: beyond the
        # default range an end goes only as far as the curve shows rates to be of use.
        least, most = found.useful
        inner = max(low, min(given.low, least)), min(high, max(given.high, most))
        if inner != (low, high):
            reasons.append(
                f"of what was measured, {low:.3g} to {high:.3g}, the part far outside the usual "
                f"{given.low:.3g} to {given.high:.3g} shows no use"
            )
            low, high = _rounded(inner[0], down=True), _rounded(inner[1], down=False)
    else:
        outside = f"{low:.3g} to {high:.3g}"
        low, high = max(low, given.low), min(high, given.high)
        if high < LEAST_FACTOR * low:
            reasons.append(f"what was measured, {outside}, leaves next to nothing of the range")
            return LrRange(given.low, given.high, False, (*reasons, kept))
    if tried and not low <= min(tried) <= max(tried) <= high:
        low, high = min(low, *tried), max(high, *tried)
        reasons.append("it holds the rates of trials that were enqueued meanwhile")
    reasons.append(f"the study searches lr from {low:.3g} to {high:.3g}")
    return LrRange(low, high, True, tuple(reasons))


def ranged(space: Space, low: float, high: float) -> Space:
    """The space with another range of lr; a prior whose centre lies outside is left out."""

    def holds(prior: Prior) -> bool:
        return low <= prior.center <= high

    lr = _lr(space)
    own = lr.prior
    if isinstance(own, Prior) and not holds(own):
        own = "none"
    priors = {
        optimizer: {name: p for name, p in of.items() if name != "lr" or holds(p)}
        for optimizer, of in space.priors.items()
    }
    moved = replace(lr, low=low, high=high, prior=own)
    return Space({**space.parameters, "lr": moved}, priors)


def _lr(space: Space) -> Float:
    lr = space.parameters["lr"]
    if not isinstance(lr, Float):
        raise TypeError("a space without a range of lr has no range test")
    return lr


def _rounded(value: float, *, down: bool) -> float:
    """To two digits, outwards: the ends are no better known than that."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    cells = value / unit
    return float(f"{(math.floor(cells + 1e-9) if down else math.ceil(cells - 1e-9)) * unit:.2g}")
