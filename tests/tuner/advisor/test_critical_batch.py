"""The critical batch size from hyperbolas that are known."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest

from tuner.advisor import critical_batch as cb
from tuner.errors import InvalidInput

WIDE = 2.0 ** np.arange(3, 13)


def steps(
    sizes: np.ndarray, critical: float = 256, noise: float = 0.0, seed: int = 0
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1000 * (1 + critical / sizes) * np.exp(noise * rng.standard_normal(sizes.size))


def test_the_docstring_examples_run() -> None:
    assert doctest.testmod(cb).failed == 0


def test_published_cases() -> None:
    assert cb.steps_to_target(64, 1000, 256) == pytest.approx(5000)
    assert cb.samples_to_target(64, 1000, 256) == pytest.approx(320_000)
    assert cb.steps_to_target(256, 1000, 256) == pytest.approx(2000)
    assert cb.samples_to_target(256, 1000, 256) == pytest.approx(512_000)


@pytest.mark.parametrize("critical", [20.0, 256.0, 3000.0])
def test_noiseless_is_exact(critical: float) -> None:
    found = cb.fit_critical_batch(WIDE, steps(WIDE, critical))
    assert found.value == pytest.approx(critical, rel=1e-3)
    assert found.steps_min == pytest.approx(1000, rel=1e-3)
    assert found.samples_min == pytest.approx(1000 * critical, rel=1e-3)
    assert found.identified
    assert found.twenty_percent == pytest.approx(0.2 * critical, rel=1e-3)


def test_twenty_percent_costs_twenty_percent_more_samples() -> None:
    least = cb.samples_to_target(1e-9, 1000, 256)
    assert cb.samples_to_target(0.2 * 256, 1000, 256) == pytest.approx(1.2 * least)


def test_three_percent_noise_stays_within_eight_percent() -> None:
    values, hits = [], 0
    for seed in range(300):
        found = cb.fit_critical_batch(WIDE, steps(WIDE, noise=0.03, seed=seed), draws=200)
        values.append(found.value)
        hits += found.low <= 256 <= found.high
    inside = np.abs(np.array(values) / 256 - 1) <= 0.08
    assert inside.mean() >= 0.95
    assert 0.90 <= hits / 300 <= 0.99
    assert np.mean(values) == pytest.approx(256, rel=0.01)


def test_batch_sizes_that_do_not_straddle_it_know_little_and_say_so() -> None:
    narrow = WIDE[:4]
    values = []
    for seed in range(100):
        found = cb.fit_critical_batch(narrow, steps(narrow, noise=0.03, seed=seed), draws=50)
        values.append(found.value)
        if found.value > 64:
            assert not found.identified
            assert "above" in found.why
            assert "extrapolated" in str(found)
    spread = np.quantile(values, [0.025, 0.975])
    assert spread[1] / spread[0] > 2


def test_a_curve_reaches_its_target_between_two_points() -> None:
    curve = {1: 1.0, 2: 0.6, 4: 0.2, 3: 0.4}
    assert cb.reached(curve, 0.5) == pytest.approx(2.5)
    assert cb.reached(curve, 0.2) == pytest.approx(4)
    assert cb.reached(curve, 0.1) is None
    assert cb.reached(curve, 1.0) is None, "it was there before it was first measured"
    assert cb.reached({}, 1.0) is None
    bumpy = {1: 1.0, 2: 0.3, 3: 0.9, 4: 0.1}
    assert cb.reached(bumpy, 0.5) == pytest.approx(1 + 0.5 / 0.7)


def test_json_comes_back_the_same() -> None:
    found = cb.fit_critical_batch(WIDE, steps(WIDE, noise=0.02))
    assert cb.CriticalBatch.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_one_failed_run_does_not_decide() -> None:
    counts = steps(WIDE, noise=0.02)
    counts[4] *= 3
    assert cb.fit_critical_batch(WIDE, counts).value == pytest.approx(256, rel=0.15)


def test_units_and_json() -> None:
    found = cb.fit_critical_batch(WIDE, steps(WIDE, noise=0.02))
    larger = cb.fit_critical_batch(WIDE * 2048, steps(WIDE, noise=0.02))
    assert larger.value == pytest.approx(found.value * 2048, rel=1e-3)
    assert json.loads(json.dumps(found.to_dict()))["value"] == found.value


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ([8, 16, 32], [3, 2, 1]),
        ([8, 8, 16, 16], [3, 3, 2, 2]),
        ([8, 16, 32, 64], [3, 2, 1, 0]),
        ([8, 16, 32, 64], [3, 2, 1, float("nan")]),
        ([8, 16, 32, 64], [3, 2, 1]),
    ],
)
def test_too_little_or_impossible(sizes: list[float], counts: list[float]) -> None:
    with pytest.raises(InvalidInput, match="steps"):
        cb.fit_critical_batch(sizes, counts)
