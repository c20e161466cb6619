"""Which trials count, and the Pareto front: those that no other one beats in every objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuner.storage.measurements import finite
from tuner.storage.pictures import Outcome


def comparable(row: Outcome) -> bool:
    """Whether it is complete, with finite values, and keeps the constraint."""
    values = [finite(value) for value in row.values]
    return row.state == "complete" and None not in values and (row.constraint or 0.0) <= 0


def front_of(rows: Sequence[Outcome], directions: Sequence[str]) -> list[Outcome]:
    """Those that no other row beats, by the first objective; equal rows stay all.

    Args:
        rows: All :func:`comparable`, in the order that ties keep.
        directions: ``minimize`` or ``maximize`` for each objective.
    """
    if not rows:
        return []
    signs = np.array([1.0 if d == "minimize" else -1.0 for d in directions])
    values = np.array([row.values for row in rows], dtype=np.float64) * signs
    order = np.lexsort((np.arange(len(rows)), *values.T[::-1]))
    kept: list[int] = []
    # The first of those left is beaten by nobody; what it beats goes, so few rounds are needed.
    while len(order):
        best = values[order[0]]
        no_better = (values[order] >= best).all(axis=1)
        same = (values[order] == best).all(axis=1)
        kept += [int(i) for i in order[same]]
        order = order[~no_better]
    return [rows[i] for i in kept]
