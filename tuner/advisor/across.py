"""From the optimum of each batch size to lr*(B): forms, held-out errors, exponent and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tuner.advisor import forms
from tuner.advisor.curves import BatchOptimum
from tuner.advisor.fitted import Fit, Interval
from tuner.advisor.identification import unidentified, wanted
from tuner.advisor.observations import Observation, duration, shared

Array = npt.NDArray[np.float64]


def across(
    optima: Sequence[BatchOptimum],
    vertices: Array,
    alpha: float,
    observations: Sequence[Observation],
    *,
    seed: int,
    level: float,
) -> Fit:
    """Joins the batch sizes.

    Args:
        optima: One for each batch size, smallest first.
        vertices: ``[1 + draws, J]`` log2 optima of the J interior ones; the first row is the
            estimate.
        alpha: Power of the saturating form.
        observations: The trials; their rates are not wanted again.
        seed: Of the scatter about the curves.
        level: Coverage of the intervals.
    """
    inside = [o for o in optima if o.kind == "interior"]
    why = unidentified([o.batch_size for o in inside])
    tried: dict[int, list[float]] = {}
    for o in observations:
        tried.setdefault(o.batch_size, []).append(o.lr)
    gaps, count = wanted(optima, tried), len(observations)
    facts, fixed = shared(observations), duration(observations)
    if why:
        return Fit(
            False, why, "", None, (), tuple(optima), {}, {}, gaps, count, level, (), facts, fixed
        )
    rng = np.random.default_rng(seed)
    points = _points(inside, [o for o in optima if o.kind == "bound"], vertices)
    missed = forms.held_out(points, alpha)
    held = {k: float(np.sqrt(np.mean(v**2))) for k, v in missed.items() if np.isfinite(v).all()}
    bends = np.array([np.nan if o.curvature is None else o.curvature for o in inside])
    lost = {k: float(np.mean(bends * missed[k] ** 2)) for k in held if np.isfinite(bends).all()}
    form = _choose(held)
    power, _ = _replicates("power", points, alpha, rng)
    slopes = power.parameters[:, 1]
    tail = (1 - level) / 2
    low, high = (float(value) for value in np.quantile(slopes[1:], [tail, 1 - tail]))
    exponent = Interval(float(slopes[0]), low, high)
    plausible = [n for n in forms.NAMES if n != form and held.get(n, math.inf) <= 2 * held[form]]
    return Fit(
        True,
        "",
        form,
        exponent,
        tuple(value for value in (0.0, 0.5, 1.0) if value not in exponent),
        tuple(optima),
        held,
        lost,
        gaps,
        count,
        level,
        facts=facts,
        fixed=fixed,
        _curves=tuple(_replicates(name, points, alpha, rng) for name in (form, *plausible)),
    ).drawn()


def _points(
    inside: Sequence[BatchOptimum], bounds: Sequence[BatchOptimum], vertices: Array
) -> forms.Points:
    error = np.array([o.log2_error for o in inside], dtype=np.float64)
    # Noiseless trials have no error to weigh by; a floor of 1 % of an octave keeps weights finite.
    weight = 1 / np.maximum(error, 0.01) ** 2
    weight = np.maximum(weight, 1e-6 * weight.max())
    usable = [o for o in bounds if o.low is not None or o.high is not None]
    return forms.Points(
        np.log2([float(o.batch_size) for o in inside]),
        vertices,
        weight,
        np.log2([float(o.batch_size) for o in usable]),
        np.array([-np.inf if o.low is None else math.log2(o.low) for o in usable]),
        np.array([np.inf if o.high is None else math.log2(o.high) for o in usable]),
    )


def _choose(held: dict[str, float]) -> str:
    """The best foreteller, unless a form with fewer parameters is within a tenth of it."""
    rated = {name: held[name] for name in forms.NAMES if name in held}
    best = min(rated.values())
    return next(name for name, error in rated.items() if error <= 1.1 * best + 1e-9)


def _replicates(
    name: str, points: forms.Points, alpha: float, rng: np.random.Generator
) -> tuple[forms.Curves, Array]:
    """Curves of all replicates, and the scatter of batch sizes about the curve, one draw each.

    Optima scatter about any form more than their own noise explains: the excess (DerSimonian and
    Laird's moment estimate) joins the weights, and a draw of it each replicate.
    """
    first = forms.Points(
        points.x, points.y[:1], points.weight, points.bound_x, points.low, points.high
    )
    residual = points.y[0] - forms.solve(name, first, alpha)(points.x)[0]
    freedom = points.x.size - (3 if name == "quadratic" else 2)
    excess = 0.0
    if freedom > 0:
        w = points.weight
        statistic = float(np.sum(w * residual**2))
        excess = max(0.0, (statistic - freedom) / float(w.sum() - (w**2).sum() / w.sum()))
    weight = 1 / (1 / points.weight + excess)
    shaken = points.y.copy()
    shaken[1:] += math.sqrt(excess) * rng.standard_normal(shaken[1:].shape)
    moved = forms.Points(points.x, shaken, weight, points.bound_x, points.low, points.high)
    scatter = math.sqrt(excess) * rng.standard_normal(shaken.shape[0] - 1)
    return forms.solve(name, moved, alpha), scatter
