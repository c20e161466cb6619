"""What to leave out of a picture so that it looks the same: pure functions over NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
LEAST_DIGITS, MOST_DIGITS = 5, 17


def extremes(values: Floats, most: int) -> Places:
    """At most ``most`` points of a curve: the least and the greatest of each stretch.

    What a curve's outline shows, spikes too, stays; the first and the last point are kept.

    Args:
        values: The curve in the order of its steps, ``[n]``, finite.
        most: How many points may stay, at least 2.

    Returns:
        Which points stay, in order.
    """
    count = len(values)
    if count <= most:
        return np.arange(count)
    stretches = (most - 2) // 2
    if stretches < 1:
        return np.array([0, count - 1])
    inner = values[1:-1]
    width = math.ceil(len(inner) / stretches)
    # The last stretch is filled up with its own last point, which changes no extreme.
    padded = np.pad(inner, (0, width * stretches - len(inner)), mode="edge").reshape(-1, width)
    base = np.arange(stretches) * width + 1
    found = np.concatenate([base + padded.argmin(axis=1), base + padded.argmax(axis=1)])
    return np.unique(np.concatenate([[0], np.minimum(found, count - 2), [count - 1]]))


def crowds(x: Floats, y: Floats, most: int, cells: int = 24) -> Places:
    """At most ``most`` points of a cloud, as dense where it is dense, and no loner lost.

    The picture is cut into ``cells`` by ``cells``; every cell with points keeps one, and beyond
    that the same share of its points as all others, evenly in the order they come.

    Args:
        x: ``[n]``, finite.
        y: ``[n]``, finite; few values far off count as at the edge, where a chart draws them.
        most: How many points may stay.
        cells: Cuts along each side; fewer where ``most`` is small.

    Returns:
        Which points stay, in order.
    """
    count = len(x)
    if count <= most:
        return np.arange(count)
    while cells > 1 and 2 * cells * cells > most:
        cells //= 2  # or the loners alone would be too many
    low, high = np.quantile(y, [0.1, 0.9])
    body = high - low
    clipped = np.clip(y, low - 2 * body, high + 2 * body) if body > 0 else y
    cell = _bins(x, cells) * cells + _bins(clipped, cells)
    order = np.argsort(cell, kind="stable")
    sizes = np.bincount(cell, minlength=cells * cells)
    share = (most - np.count_nonzero(sizes)) / count
    kept = np.minimum(np.where(sizes > 0, 1 + np.floor(share * sizes), 0), sizes).astype(np.intp)
    starts = np.cumsum(sizes) - sizes
    places = [
        start + np.arange(stay) * size // stay
        for start, size, stay in zip(starts, sizes, kept, strict=True)
        if stay
    ]
    return np.sort(order[np.concatenate(places)])


def _bins(values: Floats, cells: int) -> Places:
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(len(values), dtype=np.intp)
    return np.minimum(((values - low) / (high - low) * cells).astype(np.intp), cells - 1)


def digits_of(values: Iterable[float | None]) -> int:
    """How many significant digits a picture of these values needs, far off ones aside.

    Four of what they differ by: losses near a million may differ by ones. At least five, and all
    where the values do not differ.
    """
    told = np.fromiter((value for value in values if value is not None), np.float64)
    known: list[float] = np.sort(told[np.isfinite(told)]).tolist()
    if not known:
        return LEAST_DIGITS
    tenth = len(known) // 10
    low, high = known[tenth], known[-1 - tenth]
    if low == high:
        low, high = known[0], known[-1]
    body = high - low
    if not body:
        return MOST_DIGITS
    size = max(abs(low), abs(high))
    ahead = 0 if body >= size else math.ceil(math.log10(size) - math.log10(body))
    return min(MOST_DIGITS, max(LEAST_DIGITS, 4 + ahead))


def short(value: float, digits: int = LEAST_DIGITS) -> float:
    """The value with as many digits as a picture can show, which halves what is sent."""
    return float(f"{value:.{digits}g}")
