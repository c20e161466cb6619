"""The best learning rate at one batch size: a robust parabola of loss against log2(lr).

Losses near an optimum are parabolas in log lr, and only there; so the parabola sees the trials
within 1.6 octaves of the best, needs five rates and an interior minimum, and gives a censored bound
otherwise. A trial that diverged bounds the best rate from above and is never a loss.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tuner.advisor.observations import Observation

Array = npt.NDArray[np.float64]
Kind = Literal["interior", "bound", "unknown"]

WINDOW_OCTAVES = 1.6
WIDEST_OCTAVES = 3.5
LEAST_RATES = 5
HUBER = 1.345
LARGEST_ERROR = 3.0
"""Octaves: an optimum less certain than this says nothing."""


@dataclass(frozen=True)
class BatchOptimum:
    """What the trials of one batch size say of its best lr. All ``log2_`` values are octaves.

    Attributes:
        batch_size: Of these trials.
        kind: ``interior`` (a parabola with its minimum between trials), ``bound`` or ``unknown``.
        lr: The best rate; None unless interior.
        log2_error: Standard error of ``log2(lr)``; None unless interior.
        low: Below it the best rate cannot be; None if unbounded.
        high: Above it the best rate cannot be; None if unbounded.
        curvature: Loss per squared octave; None unless interior.
        loss: At the minimum; None unless interior.
        trials: How many the parabola saw.
        rates: How many distinct rates of this batch size finished.
        window: Half-width of the parabola in octaves.
        why: Why it is no interior minimum; empty otherwise.
    """

    batch_size: int
    kind: Kind
    lr: float | None
    log2_error: float | None
    low: float | None
    high: float | None
    curvature: float | None
    loss: float | None
    trials: int
    rates: int
    window: float
    why: str = ""


@dataclass(frozen=True)
class Parabola:
    """One batch size's least-squares problem; replicates of the loss share its design.

    Attributes:
        batch_size: Of these trials.
        center: log2 lr that the design is centred on.
        design: ``[n, p]``: a level per study, then x, then x^2.
        loss: ``[n]``.
        span: Least and greatest x.
        rates: Distinct rates that finished at this batch size.
        window: Half-width in octaves.
        ceiling: log2 of the lowest lr above the best trial that diverged, if any.
        outermost: Whether ``span`` ends at the lowest, and at the highest, of all rates that
            finished.
    """

    batch_size: int
    center: float
    design: Array
    loss: Array
    span: tuple[float, float]
    rates: int
    window: float
    ceiling: float | None = None
    outermost: tuple[bool, bool] = (True, True)

    def solve(self, loss: Array, scale: float, rounds: int = 4) -> Array:
        """Huber fits of ``[..., n]`` losses at once: coefficients ``[..., p]``."""
        weight, ridge = np.ones_like(loss), np.eye(self.design.shape[1])
        beta = np.zeros((*loss.shape[:-1], self.design.shape[1]))
        for turn in range(rounds):
            weighted = self.design * weight[..., None]
            left = np.swapaxes(weighted, -1, -2) @ self.design
            # Far outliers leave weights of nearly nothing: a trace of a ridge keeps this solvable.
            left += 1e-13 * np.trace(left, axis1=-2, axis2=-1)[..., None, None] * ridge
            right = (np.swapaxes(weighted, -1, -2) @ loss[..., None])[..., 0]
            beta = np.linalg.solve(left, right[..., None])[..., 0]
            if turn + 1 < rounds and scale > 0:
                residual = np.abs(loss - beta @ self.design.T)
                weight = np.minimum(1.0, HUBER * scale / np.maximum(residual, 1e-300))
        return beta

    def vertex(self, beta: Array) -> Array:
        """log2 of the best lr; clipped to half an octave beyond the trials, NaN never."""
        slope, bend = beta[..., -2], beta[..., -1]
        low, high = self.span[0] - 0.5, self.span[1] + 0.5
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.where(bend > 0, -slope / (2 * bend), np.where(slope > 0, low, high))
        return self.center + np.clip(x, low, high)

    def vertex_error(self, beta: Array, scale: float) -> float:
        """Standard error of the vertex by the delta method, at noise ``scale``."""
        slope, bend = float(beta[-2]), float(beta[-1])
        gradient = np.zeros(beta.size)
        gradient[-2:] = -1 / (2 * bend), slope / (2 * bend**2)
        inverse = np.linalg.inv(self.design.T @ self.design)
        return float(scale * np.sqrt(gradient @ inverse @ gradient))


def parabola(
    observations: Sequence[Observation],
    center: float | None = None,
    half_width: float = WINDOW_OCTAVES,
    *,
    at_edge: bool = False,
) -> Parabola | BatchOptimum:
    """The parabola of one batch size, or the bound (or nothing) that its trials give instead.

    Args:
        observations: All of one batch size.
        center: log2 lr to look around; the best trial's if None.
        half_width: How far to look, at least as far as the fifth nearest rate.
        at_edge: Whether to look even where the best trial has the lowest or highest rate tried.
    """
    size = observations[0].batch_size
    done = [o for o in observations if not o.failed]
    # To a millionth of an octave: rates closer than that are the same, and their difference only
    # noise.
    x = np.round([math.log2(o.lr) for o in done], 6)
    rates = np.unique(x)
    wrecks = sorted(math.log2(o.lr) for o in observations if o.failed)

    def other(kind: Kind, low: float | None, high: float | None, why: str) -> BatchOptimum:
        least, most = (None if v is None else float(2.0**v) for v in (low, high))
        return BatchOptimum(
            size, kind, None, None, least, most, None, None, len(done), len(rates), 0.0, why
        )

    if not len(rates):
        high = wrecks[0] if wrecks else None
        return other("bound" if wrecks else "unknown", None, high, "every trial diverged")
    loss = np.array([o.loss for o in done])
    repeats: dict[float, list[float]] = {float(rate): [] for rate in rates}
    for rate, value in zip(x.tolist(), loss.tolist(), strict=True):
        repeats[rate].append(value)
    best = int(np.argmin([statistics.median(values) for values in repeats.values()]))
    # The nearest diverged rate above the best is a bound; one below it is bad luck and says
    # nothing.
    above = [w for w in wrecks if w > rates[best]]
    low = float(rates[best - 1]) if best > 0 else None
    high = float(rates[best + 1]) if best + 1 < len(rates) else (above[0] if above else None)
    if len(rates) < LEAST_RATES:
        why = f"{len(rates)} learning rates finished, and a parabola needs {LEAST_RATES}"
        return other("bound" if (low, high) != (None, None) else "unknown", low, high, why)
    if not at_edge and (low is None or high is None):
        edge = "lowest" if low is None else "highest"
        return other("bound", low, high, f"the best trial has the {edge} learning rate tried")
    middle = float(rates[best]) if center is None else center
    distance = np.sort(np.abs(rates - middle))
    window = max(half_width, float(distance[LEAST_RATES - 1]) + 1e-9)
    if window > WIDEST_OCTAVES:
        why = f"fewer than {LEAST_RATES} learning rates within {WIDEST_OCTAVES} octaves of the best"
        return other("bound", low, high, why)
    near = np.abs(x - middle) <= window
    studies = sorted({o.study for o, keep in zip(done, near, strict=True) if keep})
    rows = [o for o, keep in zip(done, near, strict=True) if keep]
    offset = np.array([[float(o.study == name) for name in studies] for o in rows])
    u = x[near] - middle
    design = np.column_stack([offset, u, u**2])
    if len(rows) <= design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
        return other("bound", low, high, "too few trials for a level of each study and a parabola")
    return Parabola(
        size,
        middle,
        design,
        loss[near],
        (float(u.min()), float(u.max())),
        len(rates),
        window,
        above[0] if above else None,
        (bool(x[near].min() == rates[0]), bool(x[near].max() == rates[-1])),
    )


def settle(
    observations: Sequence[Observation], half_width: float = WINDOW_OCTAVES
) -> Parabola | BatchOptimum:
    """A parabola centred on its own vertex; the best single trial is a noisy centre."""
    curve = parabola(observations, half_width=half_width)
    for _ in range(3):
        if not isinstance(curve, Parabola):
            break
        beta = curve.solve(curve.loss, 0.0)
        middle = float(curve.vertex(beta))
        inside = curve.span[0] <= middle - curve.center <= curve.span[1]
        if not inside or beta[-1] <= 0 or abs(middle - curve.center) < 0.1:
            break
        moved = parabola(observations, middle, half_width)
        if not isinstance(moved, Parabola):
            break
        curve = moved
    return curve


def judge(curve: Parabola, scale: float) -> BatchOptimum:
    """The optimum of a parabola, or a bound where its minimum is not between its trials.

    Only where the parabola saw the outermost trial does a minimum beyond it bound anything: a
    narrow window in a flat valley slopes as its noise does.
    """
    beta = curve.solve(curve.loss, scale)
    slope, bend = float(beta[-2]), float(beta[-1])
    low, high = (float(2.0 ** (curve.center + edge)) for edge in curve.span)
    wreck = None if curve.ceiling is None else float(2.0**curve.ceiling)

    def other(kind: Kind, least: float | None, most: float | None, why: str) -> BatchOptimum:
        size, count = curve.batch_size, curve.loss.size
        return BatchOptimum(
            size, kind, None, None, least, most, None, None, count, curve.rates, curve.window, why
        )

    if bend <= 0:
        why = "the losses do not bend upwards on both sides: noise hides the optimum"
        return other("unknown" if wreck is None else "bound", None, wreck, why)
    x = -slope / (2 * bend)
    beyond = "below" if x < curve.span[0] else "above" if x > curve.span[1] else ""
    if beyond and not curve.outermost[beyond == "above"]:
        why = f"the losses near the best trial fall towards rates {beyond} them that were tried too"
        return other("unknown" if wreck is None else "bound", None, wreck, why)
    if x < curve.span[0]:
        return other("bound", None, low, "the fitted minimum lies below the learning rates tried")
    if x > curve.span[1]:
        return other("bound", high, wreck, "the fitted minimum lies above the learning rates tried")
    error = curve.vertex_error(beta, scale)
    if error > LARGEST_ERROR:
        return other("unknown", None, wreck, f"noise hides it: +-{error:.2g} octaves")
    return BatchOptimum(
        curve.batch_size,
        "interior",
        float(2.0 ** (curve.center + x)),
        error,
        low,
        high,
        bend,
        float(np.mean(beta[:-2])) - slope**2 / (4 * bend),
        curve.loss.size,
        curve.rates,
        curve.window,
    )
