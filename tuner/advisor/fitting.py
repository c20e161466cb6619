"""The best learning rate as a function of the batch size, from the user's own finished trials.

Per batch size a robust parabola (:mod:`tuner.advisor.curves`), across batch sizes three forms
compared by how well they foretell a batch size they have not seen (:mod:`tuner.advisor.forms`), and
a residual bootstrap, inflated by sqrt(n / (n - p)), for everything that has an interval. Too few
batch sizes or too narrow a span is "not identified", with the trials that would identify it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tuner.advisor import surface
from tuner.advisor.across import across
from tuner.advisor.curves import BatchOptimum, Parabola, settle
from tuner.advisor.families import TRAITS
from tuner.advisor.fitted import Fit
from tuner.advisor.observations import Observation, differences, require_one_group
from tuner.advisor.skew import shifts
from tuner.advisor.valleys import answer
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

    Where numeric settings such as ``weight_decay`` or ``beta1`` vary too, as in any random search,
    and there are 30 trials or more, a Gaussian process over all of them takes the place of the
    parabolas; so it does where the batch size was searched as a number, and too few trials share
    one for a parabola.

    Args:
        observations: Finished trials; diverged ones included.
        optimizer: Registry name, for the saturating form's power; the trials' own fact if None.
        seed: Of the bootstrap.
        draws: Bootstrap replicates.
        level: Coverage of the intervals.

    Raises:
        Refusal: The trials are a mixture; it names what differs.
    """
    # One run sent twice is one run: training is deterministic, and copies would feign certainty.
    given = list({_identity(o): o for o in observations}.values())
    center, unit = _unit(given)
    # In units of their own spread, so that no squares overflow and no curvature vanishes.
    known = [o if o.failed else replace(o, loss=(o.loss - center) / unit) for o in given]
    alpha = _alpha(optimizer, known)
    differs = differences(known)
    if differs and surface.applies(known, differs):
        found, vertices = surface.optima(known, sorted(differs), seed=seed, draws=draws)
        return across(found, vertices, alpha, known, seed=seed, level=level)
    require_one_group(known)
    sizes = sorted({o.batch_size for o in known})
    by_size = [[o for o in known if o.batch_size == size] for size in sizes]
    curves = [settle(trials) for trials in by_size]
    scale, _ = _noise([c for c in curves if isinstance(c, Parabola)])
    curves = widened(by_size, curves, scale)
    scale, inflation = _noise([c for c in curves if isinstance(c, Parabola)])
    answers = [answer(trials, c, scale) for trials, c in zip(by_size, curves, strict=True)]
    inside = [curve for _, curve in answers if curve is not None]
    rng = np.random.default_rng(seed)
    vertices = _bootstrap(inside, scale, inflation, draws, rng)
    moves = dict(zip(map(id, inside), shifts(inside, scale), strict=True))
    moved = [_moved(optimum, moves.get(id(curve), 0.0)) for optimum, curve in answers]
    vertices += [
        math.log2(now.lr / before.lr)
        for (before, _), now in zip(answers, moved, strict=True)
        if before.lr and now.lr
    ]
    optima = tuple(_in_units(optimum, center, unit) for optimum in moved)
    joined = across(optima, vertices, alpha, known, seed=seed, level=level)
    if joined.identified or not surface.scattered(known):
        return joined
    found, vertices = surface.optima(known, seed=seed, draws=draws)
    return across(found, vertices, alpha, known, seed=seed, level=level)


def _identity(o: Observation) -> tuple[object, ...]:
    return o.lr, o.batch_size, o.seed, o.diverged, repr(o.loss), repr(sorted(o.facts.items()))


def _unit(observations: Sequence[Observation]) -> tuple[float, float]:
    """Median and spread of the losses; 0 and 1 where there is nothing to spread."""
    loss = [o.loss for o in observations if not o.failed]
    if not loss:
        return 0.0, 1.0
    low, middle, high = (float(value) for value in np.quantile(loss, [0.25, 0.5, 0.75]))
    spread = high - low if high > low else max(loss) - min(loss)
    return middle, spread if spread > 1e-100 else 1.0


def _moved(optimum: BatchOptimum, octaves: float) -> BatchOptimum:
    """The optimum of a valley with unequal sides, within its bounds."""
    if octaves == 0 or optimum.lr is None:
        return optimum
    lr = optimum.lr * 2.0**octaves
    return replace(optimum, lr=min(max(lr, optimum.low or lr), optimum.high or lr))


def _in_units(optimum: BatchOptimum, center: float, unit: float) -> BatchOptimum:
    """The optimum with curvature and loss as the trials count them."""
    if optimum.curvature is None or optimum.loss is None:
        return optimum
    return replace(optimum, curvature=optimum.curvature * unit, loss=optimum.loss * unit + center)


def _alpha(optimizer: str | None, known: Sequence[Observation]) -> float:
    """The saturating form's power: 1 for SGD, 1/2 for normalised steps and the unknown."""
    named = (str(o.facts["optimizer"]) for o in known if "optimizer" in o.facts)
    name = optimizer or next(named, "")
    return 1.0 if name in TRAITS and TRAITS[name].family == "sgd" else 0.5


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
    if not curves:
        return np.empty((1 + draws, 0))
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
