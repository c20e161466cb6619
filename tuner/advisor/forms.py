"""How lr* may depend on the batch size: three curves in octaves, many replicates at once.

- ``power``: ``log lr* = a + s log B``, the form of every rule;
- ``saturating``: ``log lr* = a - alpha log(1 + B_noise/B)``, the noise-scale law (alpha 1 for SGD,
  1/2 where steps are normalised);
- ``quadratic``: ``log lr* = a + s log B + c log^2 B``, for all that bends otherwise.

Points are optima with weights; bounds join a fit only where it would break them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

NAMES = ("power", "saturating", "quadratic")
LEAST_POINTS = {"power": 2, "saturating": 3, "quadratic": 3}
_BOUND_ERROR = 0.25
_GRID = 96


@dataclass(frozen=True)
class Points:
    """log2 batch sizes ``x [J]``, optima ``y [R, J]``, weights ``[J]``; bounds ``[L]``."""

    x: Array
    y: Array
    weight: Array
    bound_x: Array
    low: Array
    high: Array

    def without(self, index: int) -> Points:
        """All but one optimum, and no bounds: for a prediction that has not seen it."""
        keep = np.arange(self.x.size) != index
        none = np.empty(0)
        return Points(self.x[keep], self.y[:, keep], self.weight[keep], none, none, none)


@dataclass(frozen=True)
class Curves:
    """Fitted curves, one a replicate: ``parameters [R, p]`` of the form ``name``."""

    name: str
    parameters: Array
    alpha: float

    def __call__(self, x: Array) -> Array:
        """log2 lr* at log2 batch sizes ``[J]``, as ``[R, J]``."""
        p = self.parameters[:, :, None]
        if self.name == "saturating":
            return np.asarray(p[:, 0] - self.alpha * np.logaddexp2(0.0, p[:, 1] - x))
        powers = p.shape[1]
        return np.asarray(np.sum([p[:, i] * x**i for i in range(powers)], axis=0))


def solve(name: str, points: Points, alpha: float = 1.0) -> Curves:
    """Weighted least squares of one form, bounds included where they bind."""
    if name == "saturating":
        return _solve_saturating(points, alpha)
    degree = 1 if name == "power" else 2
    return Curves(name, _with_bounds(points, lambda x: x[:, None] ** np.arange(degree + 1)), alpha)


def _with_bounds(points: Points, basis: Callable[[Array], Array]) -> Array:
    """Linear least squares; a bound that the fit breaks becomes a point of the next fit."""
    replicates = points.y.shape[0]
    design = np.concatenate([basis(points.x), basis(points.bound_x)])
    count = points.x.size
    target = np.concatenate([points.y, np.zeros((replicates, points.bound_x.size))], axis=1)
    weight = np.zeros_like(target)
    weight[:, :count] = points.weight
    binding = np.minimum(1 / _BOUND_ERROR**2, points.weight.max())
    solution = np.zeros((replicates, design.shape[1]))
    for _ in range(4 if points.bound_x.size else 1):
        left = np.einsum("np,rn,nq->rpq", design, weight, design)
        right = np.einsum("np,rn->rp", design, weight * target)
        solution = np.linalg.solve(left, right[..., None])[..., 0]
        at = solution @ design[count:].T
        nearest = np.clip(at, points.low, points.high)
        target[:, count:] = nearest
        weight[:, count:] = np.where(np.abs(at - nearest) > 1e-12, binding, weight[:, count:])
    return np.asarray(solution)


def _solve_saturating(points: Points, alpha: float) -> Curves:
    """Two grids over the one nonlinear parameter; the level at each is closed form."""
    low, high = float(points.x.min()), float(points.x.max())
    grid = np.linspace(low - 7, high + 7, _GRID)[None]
    center = _best_on(grid, points, alpha)
    step = (grid[0, 1] - grid[0, 0]) / 8
    noise = _best_on(center[:, None] + step * np.arange(-12, 13), points, alpha)
    drop = alpha * np.logaddexp2(0.0, noise[:, None] - points.x)
    weight = points.weight / points.weight.sum()
    return Curves("saturating", np.column_stack([(points.y + drop) @ weight, noise]), alpha)


def _best_on(grid: Array, points: Points, alpha: float) -> Array:
    """The best log2 B_noise of each replicate on ``grid [R or 1, G]``, between its points too."""
    weight = points.weight / points.weight.sum()
    gap = points.y[:, None, :] + alpha * np.logaddexp2(0.0, grid[..., None] - points.x)
    level = gap @ weight
    misfit = ((gap - level[..., None]) ** 2) @ points.weight
    if points.bound_x.size:
        at = level[..., None] - alpha * np.logaddexp2(0.0, grid[..., None] - points.bound_x)
        broken = at - np.clip(at, points.low, points.high)
        misfit = misfit + (broken**2).sum(-1) * min(1 / _BOUND_ERROR**2, points.weight.max())
    best = np.clip(np.argmin(misfit, axis=1), 1, grid.shape[1] - 2)
    rows = np.arange(best.size)
    left, middle, right = (misfit[rows, best + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(bend > 0, 0.5 * (left - right) / bend, 0.0)
    values = np.broadcast_to(grid, (best.size, grid.shape[1]))[rows, best]
    return np.asarray(values + np.clip(shift, -1, 1) * (grid[:, 1] - grid[:, 0]))


def held_out(points: Points, alpha: float) -> dict[str, Array]:
    """Octaves by which each form misses each optimum that it was fitted without, or NaN.

    ``keep``, ``sqrt`` and ``linear`` start from the nearest other batch size: what a rule would
    have said.
    """
    count = points.x.size
    out = {name: np.full(count, np.nan) for name in (*NAMES, "keep", "sqrt", "linear")}
    first = Points(points.x, points.y[:1], points.weight, *(np.empty(0),) * 3)
    for index in range(count):
        rest = first.without(index)
        if rest.x.size < 1:
            continue
        for name in NAMES:
            if rest.x.size >= LEAST_POINTS[name]:
                predicted = solve(name, rest, alpha)(points.x[index : index + 1])
                out[name][index] = predicted[0, 0] - points.y[0, index]
        nearest = int(np.argmin(np.abs(rest.x - points.x[index])))
        for name, power in (("keep", 0.0), ("sqrt", 0.5), ("linear", 1.0)):
            moved = rest.y[0, nearest] + power * (points.x[index] - rest.x[nearest])
            out[name][index] = moved - points.y[0, index]
    return out
