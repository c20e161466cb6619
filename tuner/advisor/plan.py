"""The study that would tell lr*(B) best for a given number of trials.

A grid of learning rates by batch sizes. More batch sizes pin the slope, more rates pin each
optimum, a wider span of rates keeps optima off the edge; a budget pays for some of each. So every
grid that it pays for is rated by the standard error to expect, averaged over the exponents that
were measured and over how far the present lr may be off. Repeating a rate tells a parabola no more
than a rate beside it, so nothing repeats.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.advisor.curves import LEAST_RATES, WIDEST_OCTAVES
from tuner.advisor.families import traits
from tuner.advisor.fitted import Fit
from tuner.advisor.identification import LEAST_BATCH_SIZES, LEAST_SPAN
from tuner.advisor.move import batch_number, number
from tuner.advisor.windows import CANDIDATES
from tuner.errors import InvalidInput, Refusal

Array = npt.NDArray[np.float64]

LEAST_TRIALS = LEAST_BATCH_SIZES * LEAST_RATES
MOST_SIZES = 8
MOST_BATCH = 2**31
MOST_RATES = 40
EXPONENTS = (0.0, 0.17, 0.34, 0.5, 0.68)
"""From keep to the steepest rise measured for a normalised optimizer; SGD may reach 1."""
OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Octaves by which the present lr may miss its own best."""
SCATTER_OCTAVES = 0.1
"""Of optima about any curve; it makes further batch sizes worth more than further rates."""
CUBIC = 0.1
"""Third-order term of a loss over its curvature, per octave: losses rise faster to the right."""


@dataclass(frozen=True)
class Plan:
    """A study, and what to expect of it.

    Attributes:
        study: In the form of a study file, ready to submit.
        batch_sizes: Of the grid.
        lrs: Of the grid.
        trials: How many it is.
        exponent_error: Expected standard error of ``s`` in lr* = c B^s.
        prediction_error: Expected standard error of log2 lr* at ``target``, in octaves.
        target: The batch size it is to predict.
        chance: Share of the exponents and offsets considered for which the grid identifies the
            exponent.
        why: Why this grid, in two sentences.
    """

    study: dict[str, Any]
    batch_sizes: tuple[int, ...]
    lrs: tuple[float, ...]
    trials: int
    exponent_error: float
    prediction_error: float
    target: int
    chance: float
    why: str

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "study": self.study,
            "batch_sizes": list(self.batch_sizes),
            "lrs": list(self.lrs),
            "trials": self.trials,
            "exponent_error": self.exponent_error,
            "prediction_error": self.prediction_error,
            "target": self.target,
            "chance": self.chance,
            "why": self.why,
        }

    def __str__(self) -> str:
        return (
            f"{self.trials} trials: batch sizes {', '.join(map(str, self.batch_sizes))}, "
            f"{len(self.lrs)} learning rates from {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}\n  "
            f"{self.why}"
        )


def plan(
    config: Mapping[str, Any],
    *,
    task: Mapping[str, Any],
    objective: Mapping[str, Any],
    trials: int,
    epochs: int,
    optimizer: str | None = None,
    target: int | None = None,
    smallest: int | None = None,
    largest: int | None = None,
    fit: Fit | None = None,
    noise: float = 0.7,
    seed: int = 0,
    name: str = "scaling",
) -> Plan:
    """The grid study of at most ``trials`` trials that tells lr*(B) best.

    Args:
        config: The present configuration: ``lr``, ``batch_size``, and the rest, which stays
            constant.
        task: As in a study file.
        objective: As in a study file.
        trials: The budget.
        epochs: Of each trial; the same for all, so every batch size sees the same samples.
        optimizer: Registry name; ``config["optimizer"]`` if None.
        target: The batch size to predict; the largest of the grid if None.
        smallest: Least batch size worth running; an eighth of the present one if None.
        largest: Greatest that can be run; eight times the present one, or the target, if None.
        fit: What is known of lr*(B) so far; its prediction replaces the guess.
        noise: Standard deviation of a loss over the curvature of the loss, in squared octaves of
            lr.
        seed: Of the study.
        name: Of the study.

    Raises:
        Refusal: The budget or the span of batch sizes cannot identify an exponent.
        InvalidInput: A value is impossible.
    """
    chosen = optimizer if optimizer is not None else config.get("optimizer")
    if chosen is None:
        raise InvalidInput("optimizer", "is missing: the plan's range of exponents depends on it")
    family = traits(str(chosen)).family
    lr, present = number(config, "lr"), batch_number(config.get("batch_size"))
    if not 1e-100 < lr < 1e100:
        raise InvalidInput("lr", f"{lr!r} is no learning rate to search around")
    if present > MOST_BATCH:
        raise InvalidInput("batch_size", f"{present!r} is above {MOST_BATCH}")
    if trials < LEAST_TRIALS:
        raise Refusal(
            "trials",
            f"{trials} trials cannot identify lr*(B): it takes {LEAST_BATCH_SIZES} batch sizes "
            f"with {LEAST_RATES} learning rates each; give it {LEAST_TRIALS} or use a rule",
            instead=LEAST_TRIALS,
        )
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InvalidInput("epochs", f"{epochs!r} is not a whole number from 1, as a study's are")
    if not (math.isfinite(noise) and noise > 0):
        raise InvalidInput("noise", f"{noise!r} is not a positive number")
    low = max(1, present // 8) if smallest is None else batch_number(smallest, "smallest")
    high = max(present * 8, target or 0) if largest is None else batch_number(largest, "largest")
    if high < LEAST_SPAN * low:
        raise Refusal(
            "largest",
            f"batch sizes from {low} to {high} span less than {LEAST_SPAN:g}x, too little to tell "
            "an exponent; allow smaller ones (they cost the same samples)",
            instead=math.ceil(LEAST_SPAN * low),
        )
    aim = target if target is not None else high
    steepest = 1.0 if family == "sgd" else EXPONENTS[-1]
    worlds = _worlds(lr, present, steepest, fit)
    best = min(
        (
            _rate(worlds, sizes, rates, math.log2(aim), noise)
            for sizes in _size_sets(low, high, trials)
            for rates in _rate_sets(worlds, sizes, trials // len(sizes))
        ),
        key=lambda rated: rated.error,
    )
    lrs = tuple(float(f"{2.0**x:.6g}") for x in best.rates)
    space: dict[str, Any] = {
        key: value
        for key, value in config.items()
        if key not in ("lr", "batch_size", "optimizer", "epochs")
    }
    study = {
        "name": name,
        "task": dict(task),
        "objective": dict(objective),
        "space": {
            "optimizer": str(chosen),
            "lr": {"type": "categorical", "choices": list(lrs)},
            "batch_size": {"type": "categorical", "choices": list(best.sizes)},
            **space,
        },
        "sampler": {"name": "grid", "seed": seed},
        "pruner": {"name": "none"},
        "budget": {"trials": len(lrs) * len(best.sizes), "epochs": epochs},
        "seed": seed,
    }
    span = best.rates[-1] - best.rates[0]
    only = f", though only {best.chance:.0%} of the cases considered would tell"
    why = (
        f"{len(best.sizes)} batch sizes over a factor of {best.sizes[-1] / best.sizes[0]:g} pin "
        f"the slope, and {len(lrs)} rates over {span:.1f} octaves keep each optimum off the edge "
        f"for the exponents that were measured. Expect the exponent to +-{best.slope:.2f} and the "
        f"best lr at {aim} to +-{best.prediction:.2f} octaves{only if best.chance < 1 else ''}; "
        "nothing is pruned, since a pruned trial has no final loss."
    )
    return Plan(
        study,
        tuple(best.sizes),
        lrs,
        len(lrs) * len(best.sizes),
        best.slope,
        best.prediction,
        aim,
        best.chance,
        why,
    )


@dataclass(frozen=True)
class _Rated:
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    error: float
    slope: float
    prediction: float
    chance: float


@dataclass(frozen=True)
class _Worlds:
    """Straight lines lr*(B) in octaves that may be true: ``level + slope (x - anchor)``."""

    level: Array
    slope: Array
    anchor: float

    def at(self, x: Array) -> Array:
        """``[worlds, sizes]``."""
        return np.asarray(self.level[:, None] + self.slope[:, None] * (x - self.anchor))


def _worlds(lr: float, present: int, steepest: float, fit: Fit | None) -> _Worlds:
    if fit is not None and fit.exponent is not None:
        # Known so far: the fitted exponent and its interval, the level at the present batch size.
        s = fit.exponent
        here = fit.predict(present)
        slopes, level = np.array([s.low, s.value, s.high]), math.log2(here.lr.value)
        offsets = np.array([-1.0, 0.0, 1.0]) * max(0.1, here.octave_error)
    else:
        slopes = np.array(EXPONENTS) * (steepest / EXPONENTS[-1])
        level, offsets = math.log2(lr), np.array(OFFSETS)
    grid = np.stack(np.meshgrid(offsets, slopes), axis=-1).reshape(-1, 2)
    return _Worlds(level + grid[:, 0], grid[:, 1], math.log2(present))


def _size_sets(low: int, high: int, trials: int) -> list[tuple[int, ...]]:
    """Batch sizes evenly spaced in octaves, over the whole span or less of it."""
    out: set[tuple[int, ...]] = set()
    for shrink_low, shrink_high in itertools.product((1, 2, 4), repeat=2):
        first, last = low * shrink_low, high // shrink_high
        for count in range(LEAST_BATCH_SIZES, min(MOST_SIZES, trials // LEAST_RATES) + 1):
            if last < LEAST_SPAN * first:
                continue
            sizes = sorted({_round(b, first, last) for b in np.geomspace(first, last, count)})
            if len(sizes) >= LEAST_BATCH_SIZES:
                out.add(tuple(sizes))
    return sorted(out)


def _round(size: float, low: int, high: int) -> int:
    """To a power of two, or half-way between two of them; the ends are kept as they are."""
    if size <= low * 1.001 or size >= high * 0.999:
        return round(size)
    power = 2.0 ** math.floor(math.log2(size))
    options = [b for b in (power, 1.5 * power, 2 * power) if low < b < high and b == int(b)]
    return int(min(options, key=lambda b: abs(math.log(b / size)), default=round(size)))


def _rate_sets(worlds: _Worlds, sizes: tuple[int, ...], count: int) -> list[tuple[float, ...]]:
    """Evenly spaced log2 rates over all that the worlds allow, with more or less to spare."""
    optima = worlds.at(np.log2(np.array(sizes, dtype=np.float64)))
    out = []
    for spare in (0.5, 1.0, 1.5, 2.0):
        low, high = float(optima.min()) - spare, float(optima.max()) + spare
        # A grid finer than an eighth of an octave buys nothing that seeds would not.
        most = min(count, MOST_RATES, max(LEAST_RATES, int((high - low) * 8) + 1))
        out.append(tuple(float(x) for x in np.linspace(low, high, most)))
    return out


def _rate(
    worlds: _Worlds, sizes: tuple[int, ...], rates: tuple[float, ...], target: float, noise: float
) -> _Rated:
    """What a grid would tell, averaged over the worlds; the error is that of the prediction."""
    x = np.log2(np.array(sizes, dtype=np.float64))
    weight = _information(np.array(rates), worlds.at(x), noise)
    inside = weight > 0
    reach = np.where(inside, x, -np.inf).max(1) - np.where(inside, x, np.inf).min(1)
    told = (inside.sum(1) >= LEAST_BATCH_SIZES) & (reach >= math.log2(LEAST_SPAN) - 1e-9)
    # A weak prior (an octave in level, one in slope) keeps hopeless grids comparable.
    u = x - worlds.anchor
    a, b, c = 1 + weight.sum(1), (weight * u).sum(1), 1 + (weight * u**2).sum(1)
    determinant = a * c - b**2
    v = target - worlds.anchor
    slope = math.sqrt(float(np.mean(a / determinant)))
    prediction = math.sqrt(float(np.mean((c - 2 * b * v + a * v**2) / determinant)))
    chance = float(told.mean())
    return _Rated(sizes, rates, prediction + (1 - chance), slope, prediction, chance)


def _information(grid: Array, optima: Array, noise: float) -> Array:
    """One over the variance of each fitted optimum, in octaves; 0 where none can be fitted.

    Over the window of least expected error, as the fit will take it.
    """
    offset = grid - optima[..., None]
    distance = np.abs(offset)
    fifth = np.partition(distance, LEAST_RATES - 1, axis=-1)[..., LEAST_RATES - 1]
    best = np.full(optima.shape, np.inf)
    for candidate in CANDIDATES:
        window = np.maximum(candidate, fifth + 1e-9)
        near = np.where(distance <= window[..., None], offset, np.nan)
        s0, s1, s2, s3, s4 = (np.nansum(near**power, axis=-1) for power in range(5))
        minor = s0 * s4 - s2**2
        determinant = s0 * (s2 * s4 - s3**2) - s1 * (s1 * s4 - s2 * s3) + s2 * (s1 * s3 - s2**2)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = noise**2 / 4 * minor / determinant + (0.3 * CUBIC * window**2) ** 2
        bracketed = (np.nanmin(near, axis=-1) < 0) & (np.nanmax(near, axis=-1) > 0)
        good = bracketed & (window <= WIDEST_OCTAVES) & (determinant > 1e-9)
        best = np.where(good, np.minimum(best, variance), best)
    return np.asarray(1 / (best + SCATTER_OCTAVES**2))
