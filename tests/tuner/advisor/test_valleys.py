"""Flat and noisy valleys, cliffs and edges: the answer never contradicts the trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tuner.advisor import Observation, fit
from tuner.advisor.curves import BatchOptimum, Parabola, judge, parabola
from tuner.advisor.valleys import answer, roughness, valley

RATES = (1.56e-4, 2.62e-4, 4.39e-4, 7.37e-4, 1.237e-3, 2.075e-3, 3.482e-3, 5.843e-3, 9.804e-3)
RATES = (*RATES, 1.645e-2)
FASHION = {
    16: (0.908619, 0.729130, 0.647171, 0.574579, 0.524792, 0.531183, 0.546307, 0.522977, 0.561607),
    64: (1.537291, 1.249894, 0.975385, 0.768454, 0.647383, 0.587391, 0.614677, 0.533548, 0.609797),
}
LAST = {16: 0.554029, 64: 0.577065}
"""Validation losses of a small network on Fashion-MNIST, flat over two octaves and more."""


def fashion(size: int) -> list[Observation]:
    losses = (*FASHION[size], LAST[size])
    return [Observation(lr, size, loss) for lr, loss in zip(RATES, losses, strict=True)]


def trials(
    shape: Callable[[float], float],
    seed: int = 0,
    *,
    noise: float = 0.02,
    spacing: float = 0.75,
    count: int = 10,
    shift: float = 0.0,
    ruin: float = math.inf,
) -> list[Observation]:
    """Around 2^-8, the optimum off the grid's middle by up to half a spacing and ``shift``."""
    rng = np.random.default_rng(seed)
    best = -8 + rng.uniform(-0.5, 0.5) * spacing + shift
    x = -8 + spacing * (np.arange(count) - (count - 1) / 2)
    return [
        Observation(
            2.0**u,
            64,
            1 + shape(u - best) + noise * rng.standard_normal(),
            diverged=u - best > ruin,
        )
        for u in x.tolist()
    ]


def flat(half: float, slope: float = 0.1) -> Callable[[float], float]:
    return lambda d: slope * max(0.0, abs(d) - half)


def optimum(observations: list[Observation]) -> BatchOptimum:
    (found,) = fit(observations, draws=2).optima
    return found


def holds(found: BatchOptimum, lr: float) -> bool:
    return (found.low or 0) <= lr * 1.0001 and lr <= (found.high or math.inf) * 1.0001


@pytest.mark.parametrize("size", [16, 64])
def test_a_flat_valley_with_far_worse_low_rates_is_not_said_to_lie_below_or_above(
    size: int,
) -> None:
    found = optimum(fashion(size))
    assert found.kind == "interior"
    assert 1.2e-3 < (found.lr or 0) < 1.2e-2  # where the losses are within noise of the best
    assert (found.log2_error or 0) > 0.3
    assert holds(found, 5.843e-3)


SHAPES: dict[str, Callable[[float], float]] = {
    "parabola": lambda d: 0.03 * d * d,
    "shallow": lambda d: 0.003 * d * d,
    "flat over three octaves": flat(1.5),
    "flat over five": flat(2.5),
    "flat everywhere": lambda d: 0.0,
    "cliff": lambda d: 0.01 * d * d + (d > 1.2),
}


@pytest.mark.parametrize("shift", [0.0, 3.0, 5.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_the_valley_a_bound_holds_the_best_trial_and_the_truth(
    shape: str, shift: float
) -> None:
    """Of the narrow parabola's bounds up to 26 % excluded the best trial, and 28 % the optimum."""
    missed = 0
    for seed in range(60):
        given = trials(SHAPES[shape], seed, shift=shift)
        found = optimum(given)
        if found.kind == "interior":
            continue
        assert holds(found, min(given, key=lambda o: o.loss).lr)
        low, high = (2.0 ** (-8 + shift + side * 0.375) for side in (-1, 1))
        missed += (found.low or 0) > high or (found.high or math.inf) < low
    assert missed <= 2 or shape == "flat everywhere"


@pytest.mark.parametrize("shape", ["flat over three octaves", "flat over five", "cliff"])
def test_most_such_valleys_have_an_optimum_and_it_loses_less_than_the_noise(shape: str) -> None:
    lost = []
    for seed in range(60):
        found = optimum(trials(SHAPES[shape], seed))
        if found.lr is not None:
            lost.append(SHAPES[shape](math.log2(found.lr) + 8))
    assert len(lost) >= 50
    assert np.mean(lost) < 0.01  # noise 0.02


def test_an_optimum_beyond_the_trials_stays_a_bound() -> None:
    kinds = [optimum(trials(SHAPES["parabola"], seed, shift=5.0)) for seed in range(40)]
    assert all(found.kind == "bound" and found.high is None for found in kinds)
    assert all("highest learning rate tried" in found.why for found in kinds)


def test_a_parabola_that_did_not_see_the_outermost_trials_bounds_nothing() -> None:
    curve = parabola(fashion(16))
    assert isinstance(curve, Parabola)
    said = judge(curve, 0.02)
    assert (said.kind, said.low, said.high) == ("unknown", None, None)
    assert "tried too" in said.why


def test_a_lone_bad_trial_bounds_nothing() -> None:
    given = trials(flat(2.5), 1, noise=0.002)
    best = int(np.argmin([o.loss for o in given]))
    given[best + 1] = replace(given[best + 1], loss=9.0)
    found = valley(given, 0.002, dense=False)
    assert found is not None
    assert found.high is None or found.high > best + 1


def test_without_noise_the_neighbours_are_the_bracket() -> None:
    given = trials(SHAPES["parabola"], noise=0.0)
    found = valley(given, 0.0, dense=False)
    assert found is not None
    assert (found.low, found.high) == (found.best - 1, found.best + 1)


def test_no_difference_at_all_is_unknown_and_says_so() -> None:
    said = {optimum(trials(SHAPES["flat everywhere"], seed)).why for seed in range(40)}
    assert "the losses differ by no more than noise over all the learning rates tried" in said


def test_a_rate_that_diverged_closes_the_bracket() -> None:
    found = [
        optimum(trials(lambda d: 0.01 * d * d, seed, ruin=1.2, spacing=1.0, count=8))
        for seed in range(40)
    ]
    for one in found:
        if one.kind == "bound":
            assert one.high is not None


def test_everything_diverged_is_a_bound() -> None:
    wreck = Observation(0.1, 64, math.nan)
    curve = parabola([wreck])
    assert answer([wreck], curve, 0.0) == (curve, None)


def test_levels_of_studies_are_no_walls() -> None:
    given = trials(flat(1.5), 3)
    two = [replace(o, loss=o.loss + 5 * (i % 2), study="ab"[i % 2]) for i, o in enumerate(given)]
    one, mixed = optimum(given), optimum(two)
    assert holds(mixed, one.lr or 2.0**-8)


@pytest.mark.parametrize("noise", [0.005, 0.05])
def test_roughness_is_the_noise_whatever_the_shape(noise: float) -> None:
    found = []
    for seed in range(200):
        given = trials(SHAPES["parabola"], seed, noise=noise, spacing=0.25, count=14)
        found.append(roughness(np.log2([o.lr for o in given]), np.array([o.loss for o in given])))
    assert np.mean(found) == pytest.approx(noise, rel=0.15)
