"""The best learning rate as a function of the batch size, from the user's own finished trials.

Per batch size a robust parabola (:mod:`tuner.advisor.curves`), across batch sizes three forms
compared by how well they foretell a batch size they have not seen (:mod:`tuner.advisor.forms`), and
a residual bootstrap, inflated by sqrt(n / (n - p)), for everything that has an interval. Too few
batch sizes or too narrow a span is "not identified", with the trials that would identify it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tuner.advisor import forms
from tuner.advisor.curves import BatchOptimum, Parabola, judge, settle
from tuner.advisor.families import traits
from tuner.advisor.fitted import Fit, Interval
from tuner.advisor.identification import unidentified, wanted
from tuner.advisor.observations import Observation, require_one_group
from tuner.advisor.windows import widened

Array = npt.NDArray[np.float64]


def fit(
    observations: Iterable[Observation],
    *,
    optimizer: str | None = None,
    seed: int = 0,
    draws: int = 1000,
    level: float = 0.95,
) -> Fit:
    """Fits lr*(B) to finished trials that share all but lr, batch size and seed.

    Args:
        observations: Finished trials; diverged ones included.
        optimizer: Registry name, for the saturating form's power; the trials' own fact if None.
        seed: Of the bootstrap.
        draws: Bootstrap replicates.
        level: Coverage of the intervals.

    Raises:
        Refusal: The trials are a mixture; it names what differs.
    """
    known = list(observations)
    require_one_group(known)
    name = optimizer or next(
        (str(o.facts["optimizer"]) for o in known if "optimizer" in o.facts), ""
    )
    alpha = 1.0 if name and traits(name).family == "sgd" else 0.5
    sizes = sorted({o.batch_size for o in known})
    by_size = [[o for o in known if o.batch_size == size] for size in sizes]
    curves = [settle(trials) for trials in by_size]
    scale, _ = _noise([c for c in curves if isinstance(c, Parabola)])
    curves = widened(by_size, curves, scale)
    scale, inflation = _noise([c for c in curves if isinstance(c, Parabola)])
    optima = tuple(judge(c, scale) if isinstance(c, Parabola) else c for c in curves)
    inside = [
        (c, o)
        for c, o in zip(curves, optima, strict=True)
        if isinstance(c, Parabola) and o.kind == "interior"
    ]
    why = unidentified([o.batch_size for _, o in inside])
    if why:
        trials = wanted(optima)
        return Fit(False, why, "", None, (), optima, {}, {}, trials, len(known), level)
    rng = np.random.default_rng(seed)
    vertices = _bootstrap([c for c, _ in inside], scale, inflation, draws, rng)
    points = _points(inside, [o for o in optima if o.kind == "bound"], vertices)
    missed = forms.held_out(points, alpha)
    bends = np.array([o.curvature for _, o in inside], dtype=np.float64)
    held = {k: float(np.sqrt(np.mean(v**2))) for k, v in missed.items() if np.isfinite(v).all()}
    lost = {k: float(np.mean(bends * v**2)) for k, v in missed.items() if k in held}
    form = _choose(held)
    power, _ = _replicates("power", points, alpha, rng)
    slopes = power.parameters[:, 1]
    tail = (1 - level) / 2
    low, high = (float(value) for value in np.quantile(slopes[1:], [tail, 1 - tail]))
    exponent = Interval(float(slopes[0]), low, high)
    plausible = [n for n in forms.NAMES if n != form and held.get(n, math.inf) <= 2 * held[form]]
    curves_of = tuple(_replicates(name, points, alpha, rng) for name in (form, *plausible))
    return Fit(
        True,
        "",
        form,
        exponent,
        tuple(value for value in (0.0, 0.5, 1.0) if value not in exponent),
        optima,
        held,
        lost,
        wanted(optima),
        len(known),
        level,
        curves_of,
    )


def _noise(curves: Sequence[Parabola]) -> tuple[float, float]:
    """Robust standard deviation about the parabolas, and the bootstrap's inflation."""
    if not curves:
        return 0.0, 1.0
    count = sum(c.loss.size for c in curves)
    spent = sum(c.design.shape[1] for c in curves)
    inflation = math.sqrt(count / max(1, count - spent))
    scale = 0.0
    for _ in range(2):  # the second time with outliers held down
        residual = np.concatenate([c.loss - c.solve(c.loss, scale) @ c.design.T for c in curves])
        scale = 1.4826 * float(np.median(np.abs(residual))) * inflation
    return scale, inflation


def _bootstrap(
    curves: Sequence[Parabola], scale: float, inflation: float, draws: int, rng: np.random.Generator
) -> Array:
    """``[1 + draws, J]`` optima in log2; the first row is that of the trials themselves."""
    betas = [c.solve(c.loss, scale) for c in curves]
    fitted = [beta @ c.design.T for beta, c in zip(betas, curves, strict=True)]
    residual = np.concatenate([c.loss - f for c, f in zip(curves, fitted, strict=True)])
    residual = (residual - residual.mean()) * inflation
    out = np.empty((1 + draws, len(curves)))
    for j, (c, beta, mean) in enumerate(zip(curves, betas, fitted, strict=True)):
        out[0, j] = c.vertex(beta)
        again = mean + rng.choice(residual, (draws, c.loss.size))
        out[1:, j] = c.vertex(c.solve(again, scale))
    return out


def _points(
    inside: Sequence[tuple[Parabola, BatchOptimum]],
    bounds: Sequence[BatchOptimum],
    vertices: Array,
) -> forms.Points:
    error = np.array([o.log2_error for _, o in inside], dtype=np.float64)
    # Noiseless trials have no error to weigh by; a floor of 1 % of an octave keeps the weights
    # finite.
    weight = 1 / np.maximum(error, 0.01) ** 2
    usable = [o for o in bounds if o.low is not None or o.high is not None]
    return forms.Points(
        np.log2([float(c.batch_size) for c, _ in inside]),
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
