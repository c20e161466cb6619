"""The best learning rate per batch size where other numeric settings vary too: a Gaussian process.

A random search or TPE never repeats a weight decay or a beta, so its trials share nothing exactly.
From 30 trials on, a process over (log lr, log B, the other settings) sees the lr's effect through
theirs. Its posterior draws, each with its own optimum per batch size, take the place of the
parabolas' bootstrap. Losses far above the rest are clipped. Normal scores of ranks, the usual cure
for heavy tails, are not used: they bend the valley, and on known surfaces an exponent of 0.5 came
out as 0.40 (clipped losses: 0.49).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.advisor.curves import LEAST_RATES, BatchOptimum
from tuner.advisor.observations import Observation

Array = npt.NDArray[np.float64]

CONTINUOUS = frozenset(
    {
        "weight_decay",
        "beta1",
        "beta2",
        "beta3",
        "eps",
        "momentum",
        "warmup_fraction",
        "label_smoothing",
        "dropout",
        "clip_norm",
    }
)
"""Settings that act smoothly, so that a surface may pass through trials that differ in them."""

LEAST_TRIALS = 30
LEAST_VALUES = 10
MOST_TRIALS = 400
MOST_PLACES = 8
"""Batch sizes looked at where they were searched as numbers: more would repeat each other."""
_GRID = 81


def applies(observations: Sequence[Observation], differs: Mapping[str, list[Any]]) -> bool:
    """Whether all that differs was searched smoothly, in 30 trials, 10 a dimension.

    A setting with a few values was not searched: its trials are several studies thrown together.
    """
    done = sum(not o.failed for o in observations)
    smooth = all(
        name in CONTINUOUS
        and all(isinstance(value, int | float) for value in values)
        and len(values) >= max(LEAST_VALUES, done // 4)
        for name, values in differs.items()
    )
    return smooth and done >= max(LEAST_TRIALS, 10 * (2 + len(differs)))


def scattered(observations: Sequence[Observation]) -> bool:
    """Whether batch sizes were searched as numbers: many, each with too few trials of its own."""
    done = [o for o in observations if not o.failed]
    sizes = len({o.batch_size for o in done})
    return sizes >= LEAST_VALUES and LEAST_TRIALS <= len(done) < LEAST_RATES * sizes


def _places(observations: Sequence[Observation]) -> list[tuple[int, list[Observation]]]:
    """Batch sizes at which to look for the optimum, with the trials of each or about it."""
    sizes = sorted({o.batch_size for o in observations})
    if len(sizes) <= 2 * MOST_PLACES and not scattered(observations):
        return [(size, [o for o in observations if o.batch_size == size]) for size in sizes]
    x = np.log2([o.batch_size for o in observations])
    count = int(np.clip(math.ceil(np.ptp(x)), 1, MOST_PLACES))
    edges = np.linspace(x.min(), x.max(), count + 1)
    bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, count - 1)
    out: list[tuple[int, list[Observation]]] = []
    for i, middle in enumerate((edges[1:] + edges[:-1]) / 2):
        about = [o for o, b in zip(observations, bins, strict=True) if b == i]
        if about:
            size = min(about, key=lambda o: abs(math.log2(o.batch_size) - middle)).batch_size
            out.append((size, about))
    return out


def optima(
    observations: Sequence[Observation],
    names: Sequence[str] = (),
    *,
    seed: int = 0,
    draws: int = 1000,
) -> tuple[tuple[BatchOptimum, ...], Array]:
    """The best lr of each batch size, other settings held where the best tenth of trials has them.

    Where batch sizes were searched as numbers: of one batch size an octave, with the trials in it.

    Args:
        observations: Finished trials; diverged ones only bound the rates looked at.
        names: Settings that vary.
        seed: Of the posterior draws.
        draws: How many.

    Returns:
        One optimum for each batch size, smallest first, and ``[1 + draws, J]`` log2 rates of the
        interior ones: the posterior mean's, then each draw's.
    """
    done = _thinned([o for o in observations if not o.failed])
    axes = _Axes(done, names)
    loss = np.array([o.loss for o in done])
    lower, upper = np.quantile(loss, [0.25, 0.75])
    held = np.minimum(loss, upper + 3 * (upper - lower))
    model = _fitted(axes.unit(done), held, seed)
    best = [done[i] for i in np.argsort(loss)[: max(3, loss.size // 10)]]
    others = np.median(axes.unit(best)[:, 2:], axis=0)
    places = _places(observations)
    grids = {
        size: np.linspace(min(rates), max(rates), _GRID)
        for size, here in places
        if (rates := [math.log2(o.lr) for o in here if not o.failed])
    }
    points = np.concatenate([axes.line(size, grid, others) for size, grid in grids.items()])
    # Drawn all at once: batch sizes share what the surface leaves open, such as its level.
    samples = _draws(model, points, draws, np.random.default_rng(seed))
    surfaces = np.column_stack([model.predict(points), samples]).reshape(-1, _GRID, 1 + draws)
    lowest = {
        size: grid[np.argmin(surface, axis=0)]
        for (size, grid), surface in zip(grids.items(), surfaces, strict=True)
    }
    found: list[BatchOptimum] = []
    columns: list[Array] = []
    for size, here in places:
        if size not in grids:
            high = 2.0 ** min(math.log2(o.lr) for o in here)
            found.append(_other(size, "bound", None, high, 0, "every trial diverged"))
            continue
        tried = [o.lr for o in here if not o.failed]
        found.append(_judged(size, grids[size], lowest[size], tried))
        if found[-1].kind == "interior":
            columns.append(lowest[size])
    vertices = np.column_stack(columns) if columns else np.empty((1 + draws, 0))
    return tuple(found), vertices


def _judged(size: int, grid: Array, column: Array, tried: Sequence[float]) -> BatchOptimum:
    """What the minima of the mean surface and of its draws say of one batch size."""
    inside = float(np.mean((column[1:] > grid[0]) & (column[1:] < grid[-1])))
    if column[0] in (grid[0], grid[-1]) or inside < 0.9:
        low_end = column[0] < grid.mean()
        below = None if low_end else float(2.0 ** grid[0])
        above = float(2.0 ** grid[-1]) if low_end else None
        why = "the surface has its minimum at the edge of the learning rates tried"
        return _other(size, "unknown", below, above, len(tried), why)
    low, high = np.quantile(column[1:], [0.025, 0.975])
    return BatchOptimum(
        size,
        "interior",
        float(2.0 ** column[0]),
        float(np.std(column[1:])),
        float(2.0**low),
        float(2.0**high),
        None,
        None,
        len(tried),
        len(set(tried)),
        float(np.ptp(grid) / 2),
    )


class _Axes:
    """The unit cube of (log2 lr, log2 B, settings); log for a setting over a decade or more."""

    def __init__(self, done: Sequence[Observation], names: Sequence[str]) -> None:
        self.names = tuple(names)
        raw = self._raw(done, ())
        self.log = tuple(
            i
            for i in range(2, raw.shape[1])
            if raw[:, i].min() > 0 and np.ptp(np.log(raw[:, i])) > 2.3
        )
        raw = self._raw(done, self.log)
        self.low, self.span = raw.min(0), np.maximum(np.ptp(raw, axis=0), 1e-12)

    def _raw(self, done: Sequence[Observation], log: tuple[int, ...]) -> Array:
        rows = np.array(
            [
                [math.log2(o.lr), math.log2(o.batch_size), *(float(o.facts[n]) for n in self.names)]
                for o in done
            ]
        )
        for column in log:
            rows[:, column] = np.log(rows[:, column])
        return rows

    def unit(self, done: Sequence[Observation]) -> Array:
        return np.asarray((self._raw(done, self.log) - self.low) / self.span)

    def line(self, size: int, grid: Array, others: Array) -> Array:
        """Points along the learning rate at one batch size."""
        batch = self.scale(1, np.array([math.log2(size)]))[0]
        return np.column_stack(
            [
                self.scale(0, grid),
                np.full(grid.size, batch),
                np.tile(others, (grid.size, 1)),
            ]
        )

    def scale(self, column: int, values: Array) -> Array:
        return np.asarray((values - self.low[column]) / self.span[column])


def _thinned(done: list[Observation]) -> list[Observation]:
    """At most 400 trials: the better half of that number, and the rest spread over the others."""
    if len(done) <= MOST_TRIALS:
        return done
    ranked = sorted(done, key=lambda o: o.loss)
    half = MOST_TRIALS // 2
    spread = np.linspace(half, len(ranked) - 1, half).astype(int)
    return [*ranked[:half], *(ranked[i] for i in spread)]


def _fitted(points: Array, loss: Array, seed: int) -> Any:
    # Here, not above: scikit-learn takes a second to load, and most advice never needs it.
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415
    from sklearn.gaussian_process.kernels import (  # noqa: PLC0415
        ConstantKernel,
        Matern,
        WhiteKernel,
    )

    kernel = ConstantKernel(1.0, (0.05, 50.0)) * Matern(
        np.full(points.shape[1], 0.5), (0.05, 20.0), nu=2.5
    ) + WhiteKernel(0.1, (1e-4, 2.0))
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
    with warnings.catch_warnings():
        # A length scale at its bound is an input without effect, which is an answer, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(points, loss)
    # Draws are of the surface itself, without the noise of one more trial.
    model.kernel_.k2.noise_level = 1e-8
    return model


def _draws(model: Any, points: Array, draws: int, rng: np.random.Generator) -> Array:
    """``[points, draws]`` of the posterior, by eigenvectors: its covariance is all but singular."""
    mean, covariance = model.predict(points, return_cov=True)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    normal = rng.standard_normal((points.shape[0], draws))
    return np.asarray(mean[:, None] + (vectors * np.sqrt(np.maximum(values, 0.0))) @ normal)


def _other(
    size: int, kind: Any, low: float | None, high: float | None, trials: int, why: str
) -> BatchOptimum:
    return BatchOptimum(size, kind, None, None, low, high, None, None, trials, trials, 0.0, why)
