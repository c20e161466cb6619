"""Cutting samples into training, validation and test parts, the same way every time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.errors import InvalidInput

SEED = 0
"""Of the cut; not a trial's, since all trials must see the same parts."""

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part; ``test`` may be empty."""

    train: Index
    valid: Index
    test: Index


def cut(
    n: int,
    *,
    valid: float,
    test: float = 0.0,
    strata: NDArray[np.int64] | None = None,
    field: str = "task.params",
) -> Parts:
    """Cuts ``n`` rows at random, each class in proportion where ``strata`` gives classes.

    Where a class is too small to appear in every part, the cut is random without classes.

    Raises:
        InvalidInput: The fractions, or the number of rows, leave a part empty.
    """
    for name, fraction in (("valid", valid), ("test", test)):
        if isinstance(fraction, bool) or not 0.0 <= fraction < 1.0:
            raise InvalidInput(f"{field}.{name}", f"{fraction!r} is outside [0, 1)")
    if valid <= 0.0 or valid + test >= 1.0:
        raise InvalidInput(f"{field}.valid", "validation and training need samples each")
    if round(n * valid) < 1 or (test and round(n * test) < 1) or n - round(n * (valid + test)) < 1:
        raise InvalidInput(field, f"{n} samples are too few to cut into parts")
    rest: Index = np.arange(n, dtype=np.int64)
    held: Index = rest[:0]
    if test:
        rest, held = _two(rest, round(n * test), strata)
    train, validation = _two(rest, round(n * valid), strata)
    return Parts(train, validation, held)


def _two(rows: Index, second: int, strata: NDArray[np.int64] | None) -> tuple[Index, Index]:
    """Two parts at random; what a class has left over goes where the largest fractions are."""
    order = np.random.default_rng(SEED).permutation(len(rows))
    chosen = order[:second]
    if strata is not None:
        codes = np.unique(strata[rows], return_inverse=True)[1]
        sizes = np.bincount(codes)
        if sizes.min() >= 2 and len(sizes) <= min(second, len(rows) - second):
            exact = sizes * second / len(rows)
            quota = np.floor(exact).astype(np.int64)
            quota[np.argsort(quota - exact, kind="stable")[: second - quota.sum()]] += 1
            order = order[np.argsort(codes[order], kind="stable")]
            rank = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            chosen = order[rank < quota[codes[order]]]
    second_part = np.zeros(len(rows), dtype=bool)
    second_part[chosen] = True
    return rows[~second_part], rows[second_part]
