"""Parzen estimators over the unit cube, many candidates against many kernels at once.

The estimator is Optuna's (truncated normals whose widths are the gaps to their neighbours, an added
wide prior kernel, smoothed counts for choices); the arithmetic is ours. A product of normals is a
quadratic form in the point, and a product of tables is linear in one-hot columns, so the log
density of all candidates under all kernels is one matrix product of ``[m, F]`` and ``[F, n]``,
where Optuna evaluates ``m * n * D`` truncated normals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri

from tuner.samplers.history import Floats
from tuner.spaces import Categorical, Float, Int, Searched

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
LARGEST_TABLE = 128
"""Axes with at most so many values get their exact masses; finer ones are treated as a density."""


@dataclass(frozen=True)
class Axis:
    """One axis of the cube: a continuum, a fine lattice, or a few cells.

    Args:
        parameter: What the axis is.
        edges: ``[size + 1]`` borders of the cells in the unit interval; None: treated as a density.
        choice: Whether the cells have no order.
    """

    parameter: Searched
    edges: Floats | None
    choice: bool

    @classmethod
    def of(cls, parameter: Searched) -> Axis:
        """The axis of a parameter."""
        size = parameter.size
        if isinstance(parameter, Categorical):
            return cls(parameter, np.linspace(0, 1, parameter.size + 1), True)
        if size is None or size > LARGEST_TABLE:
            return cls(parameter, None, False)
        if isinstance(parameter, Int) and parameter.log:
            low, high = math.log(parameter.low - 0.5), math.log(parameter.high + 0.5)
            at = np.log(np.arange(parameter.low, parameter.high + 2) - 0.5)
            return cls(parameter, (at - low) / (high - low), False)
        return cls(parameter, np.linspace(0, 1, size + 1), False)

    def cells(self, u: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The cell of each value."""
        edges = self.edges
        if edges is None:
            raise ValueError("a density has no cells")
        return np.clip(np.searchsorted(edges, u, side="right") - 1, 0, len(edges) - 2)

    def snap(self, u: Floats) -> Floats:
        """The unit coordinate of the legal value at each ``u``."""
        if isinstance(self.parameter, Float) and self.parameter.size is None:
            return u
        return np.array([self.parameter.to_unit(self.parameter.from_unit(float(x))) for x in u])


def widths(mu: Floats) -> Floats:
    """One width for each kernel: the larger gap to its neighbours, clipped."""
    n = mu.size
    order = np.argsort(mu, kind="stable")
    ends = np.concatenate([[0.0], mu[order], [1.0]])
    gaps = np.diff(ends)
    sigma_sorted = np.maximum(gaps[:-1], gaps[1:])
    if n >= 2:  # the borders of the range are not observations
        sigma_sorted[0], sigma_sorted[-1] = gaps[1], gaps[-2]
    sigma = np.empty(n)
    sigma[order] = sigma_sorted
    return np.clip(sigma, 1.0 / min(100.0, 2.0 + n), 1.0)


def recency(n: int) -> Floats:
    """Full weight for the last 25, a ramp for those before."""
    if n < 25:
        return np.ones(n)
    return np.concatenate([np.linspace(1.0 / n, 1.0, n - 25), np.ones(25)])


class Parzen:
    """A mixture with a kernel for each observation and one wide kernel that covers everything.

    Args:
        axes: The axes, ``D`` of them.
        points: ``[n, D]``, in the order of their trials.
        weights: ``[n]``; the wide kernel has weight 1.
    """

    def __init__(self, axes: list[Axis], points: Floats, weights: Floats) -> None:
        self.axes = axes
        n = len(points)
        w = np.append(weights, 1.0)
        self.weights = w / w.sum()
        self._mu = np.vstack([points, np.full(len(axes), 0.5)])
        self._sigma = np.ones_like(self._mu)
        self._tables: list[Floats | None] = []
        columns: list[Floats] = []
        offset = np.log(self.weights)
        for j, axis in enumerate(axes):
            mu = self._mu[:, j]
            table: Floats | None
            if axis.choice:
                table = self._counts(axis, points[:, j])
            else:
                if n:
                    self._sigma[:-1, j] = widths(points[:, j])
                table = (
                    None if axis.edges is None else self._masses(axis.edges, mu, self._sigma[:, j])
                )
            self._tables.append(table)
            if table is not None:
                columns.append(np.log(np.maximum(table, 1e-300)))
                continue
            s = self._sigma[:, j]
            inside = ndtr((1 - mu) / s) - ndtr(-mu / s)
            offset = offset - mu**2 / (2 * s**2) - np.log(s * inside) - HALF_LOG_TAU
            columns.append(np.stack([-0.5 / s**2, mu / s**2], axis=1))
        self._weight = np.concatenate(columns, axis=1).T if columns else np.zeros((0, n + 1))
        self._offset = offset

    @staticmethod
    def _counts(axis: Axis, u: Floats) -> Floats:
        """A row for each of ``u`` and one for the wide kernel: the choice seen, smoothed."""
        size = axis.parameter.size or 1
        n = len(u)
        table = np.full((n + 1, size), 1.0 / (n + 1) if n else 1.0 / size)
        if n:
            table[np.arange(n), axis.cells(u)] += 1.0
        normed: Floats = table / table.sum(1, keepdims=True)
        return normed

    @staticmethod
    def _seen_once(axis: Axis, u: float, others: int) -> Floats:
        """The row of one more observation beside ``others``."""
        table = np.full((1, axis.parameter.size or 1), 1.0 / (others + 2))
        table[0, axis.cells(np.array([u]))[0]] += 1.0
        normed: Floats = table / table.sum()
        return normed

    @staticmethod
    def _masses(edges: Floats, mu: Floats, sigma: Floats) -> Floats:
        # few distinct kernels: discrete values repeat, and so do their widths
        pairs, inverse = np.unique(np.stack([mu, sigma], 1).round(12), axis=0, return_inverse=True)
        cdf = ndtr((edges - pairs[:, :1]) / pairs[:, 1:])
        mass = np.diff(cdf, axis=1)
        mass /= mass.sum(1, keepdims=True)
        out: Floats = mass[inverse.ravel()]
        return out

    def features(self, points: Floats) -> Floats:
        """``[m, F]``: what :meth:`log_density` multiplies."""
        columns: list[Floats] = []
        for j, axis in enumerate(self.axes):
            u = points[:, j]
            table = self._tables[j]
            if table is None:
                columns.append(np.stack([u**2, u], axis=1))
            else:
                one_hot = np.zeros((len(u), table.shape[1]))
                one_hot[np.arange(len(u)), axis.cells(u)] = 1.0
                columns.append(one_hot)
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(points), 0))

    def log_density(self, features: Floats) -> Floats:
        """``[m]`` log densities (masses on the axes that have cells)."""
        log_each = features @ self._weight
        log_each += self._offset
        top = log_each.max(axis=1)
        # single precision: only the differences to the largest term matter from here on
        small = (log_each - top[:, None]).astype(np.float32)
        np.exp(small, out=small)
        out: Floats = np.log(small.sum(axis=1, dtype=np.float64)) + top
        return out

    def kernel(self, point: Floats) -> Parzen:
        """The density of one kernel at ``point``, as if it were the next observation here.

        Its widths are the gaps to its neighbours in this mixture; the wide kernel is not in it.
        """
        out = object.__new__(Parzen)
        n = len(self._mu) - 1
        out.axes, out.weights, out._mu = self.axes, np.ones(1), point[None, :]
        sigma = np.ones((1, len(self.axes)))
        out._tables = []
        columns: list[Floats] = []
        offset = np.zeros(1)
        for j, axis in enumerate(self.axes):
            u = float(point[j])
            if axis.choice:
                table: Floats | None = self._seen_once(axis, u, n)
            else:
                others = self._mu[:n, j]
                above, below = others[others > u], others[others < u]
                gap = max(
                    (above.min() if above.size else 1.0) - u,
                    u - (below.max() if below.size else 0.0),
                )
                sigma[0, j] = min(max(gap, 1.0 / min(100.0, 3.0 + n)), 1.0)
                mu = point[j : j + 1]
                table = None if axis.edges is None else self._masses(axis.edges, mu, sigma[:, j])
            out._tables.append(table)
            if table is not None:
                columns.append(np.log(np.maximum(table, 1e-300)))
                continue
            s = sigma[:, j]
            log_inside = _log_mass(-u / s, (1 - u) / s)
            offset = offset - u**2 / (2 * s**2) - np.log(s) - log_inside - HALF_LOG_TAU
            columns.append(np.stack([-0.5 / s**2, u / s**2], axis=1))
        out._weight = np.concatenate(columns, axis=1).T if columns else np.zeros((0, 1))
        out._sigma, out._offset = sigma, offset
        return out

    def sample(self, rng: np.random.Generator, m: int) -> Floats:
        """``[m, D]`` draws, each on a legal value."""
        which = rng.choice(len(self.weights), size=m, p=self.weights)
        out = np.empty((m, len(self.axes)))
        for j, axis in enumerate(self.axes):
            v = rng.random(m)
            table = self._tables[j]
            if table is not None:
                cumulative = np.cumsum(table[which], axis=1)
                cell = (cumulative < v[:, None] * cumulative[:, -1:]).sum(1)
                edges = axis.edges
                assert edges is not None  # an axis with a table has cells
                out[:, j] = axis.snap((edges[cell] + edges[cell + 1]) / 2)
                continue
            mu, s = self._mu[which, j], self._sigma[which, j]
            low, high = ndtr(-mu / s), ndtr((1 - mu) / s)
            draw = mu + s * ndtri(low + v * (high - low))
            out[:, j] = axis.snap(np.clip(draw, 0.0, 1.0))
        return out


def _log_mass(a: Floats, b: Floats) -> Floats:
    """log(ndtr(b) - ndtr(a)) for a <= 0 <= b, where the difference loses nothing."""
    out: Floats = np.log(np.exp(log_ndtr(b)) - np.exp(log_ndtr(a)))
    return out
