"""The range test's analysis on curves whose drop and divergence are known, and on real ones."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from tuner.advisor.range_test import FALLBACK, analyse, rates
from tuner.errors import InvalidInput, UnknownName

RATES = rates()


def curves(
    drop: float = 1e-3, ruin: float = 1.0, noise: float = 0.02, seeds: int = 3, seed: int = 0
) -> np.ndarray:
    """From 2.3 down to 0.6 about ``drop``, back up at ``ruin``."""
    x = np.log10(RATES)
    fall = 1.7 / (1 + np.exp(-4 * (x - math.log10(drop) - 0.5)))
    rise = 40 * np.clip(x - math.log10(ruin), 0, None) ** 2
    rng = np.random.default_rng(seed)
    return 2.3 - fall + rise + noise * rng.standard_normal((seeds, RATES.size))


def test_finds_both_ends() -> None:
    found = analyse(RATES, curves())
    assert found.measured
    assert found.drop == pytest.approx(1e-3, rel=1.2)  # where 1/8 of the way down
    assert 0.8 < (found.divergence or 0) < 4
    assert found.low == pytest.approx((found.drop or 0) / 3)
    assert found.high == pytest.approx((found.divergence or 0) / 3)
    assert found.low < (found.suggestion or 0) < found.high
    assert found.suggestion == pytest.approx(1e-3 * 10**0.5, rel=0.6)


def test_answers_follow_the_curve_over_decades() -> None:
    drops = [analyse(RATES, curves(drop=10.0**e, ruin=10 ** (e + 2.5))).drop for e in (-5, -4, -3)]
    assert drops[1] == pytest.approx((drops[0] or 0) * 10, rel=0.35)
    assert drops[2] == pytest.approx((drops[1] or 0) * 10, rel=0.35)


@pytest.mark.parametrize("seed", range(20))
def test_noise_at_tiny_rates_is_not_a_drop(seed: int) -> None:
    """Differentiating against lr itself answers about 1e-7 here; the drop sits at 1e-2."""
    x = np.log10(RATES)
    rng = np.random.default_rng(seed)
    clean = 2.3 - 1.5 / (1 + np.exp(-8 * (x + 2)))
    noisy = clean + 1e-3 * rng.standard_normal((3, RATES.size))
    naive = RATES[np.argmin(np.gradient(noisy[0], RATES))]
    assert naive < 1e-5
    found = analyse(RATES, noisy)
    assert 1e-3 < (found.drop or 0) < 2e-2
    assert found.suggestion == pytest.approx(1e-2, rel=0.4)


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_a_dip_that_comes_back_is_no_drop(tails: str) -> None:
    """A model with BatchNorm is noisy; of its first dips below noise 34 in 600 were the answer."""
    x = np.log10(RATES)
    early = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        shape = (3, RATES.size)
        noise = rng.standard_normal(shape) if tails == "normal" else rng.standard_t(3, shape) / 1.7
        losses = 2.3 - 1 / (1 + np.exp(-4 * (x + 2.5))) + 0.1 * noise
        early += (analyse(RATES, losses).drop or 0) < 1e-4
    assert early <= 1


def test_a_dip_as_it_was_seen() -> None:
    losses = curves(drop=1e-2, noise=0.02)
    losses[:, 25:40] -= 0.06  # below the start by many errors, over more than ten points
    found = analyse(RATES, losses)
    assert (found.drop or 0) > 3e-3
    assert "drops for good" in str(found)


@pytest.mark.parametrize("seed", range(20))
def test_heavy_tails_alone_are_seldom_a_drop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert analyse(RATES, 2.3 + 0.1 * rng.standard_t(3, (3, RATES.size))).drop is None


def test_a_run_that_comes_back_down_is_not_ruined_and_its_first_fall_counts() -> None:
    """Plain SGD with BatchNorm: up above its start at 0.1, and down again as its weights grow."""
    x = np.log10(RATES)
    rng = np.random.default_rng(0)
    first = 1.0 / (1 + np.exp(-4 * (x + 2.5)))
    hump = 1.4 * np.exp(-0.5 * ((x + 1) / 0.15) ** 2)
    losses = 2.3 - first + hump - 0.1 * (x > -0.7) + 40 * np.clip(x, 0, None) ** 2
    found = analyse(RATES, losses + 0.02 * rng.standard_normal((3, RATES.size)), "sgd")
    assert 1e-4 < (found.drop or 0) < 2e-3
    assert (found.divergence or 0) > 0.5
    assert 1e-3 < (found.suggestion or 0) < 1e-2


def test_smoothing_does_not_shift_the_answer() -> None:
    exact = analyse(RATES, curves(noise=0.0)).suggestion
    noisy = [analyse(RATES, curves(seed=s)).suggestion for s in range(20)]
    assert np.median(np.log10(noisy)) == pytest.approx(math.log10(exact or 1), abs=0.15)


def test_one_seed_that_diverges_early_ends_the_range() -> None:
    losses = curves()
    losses[1, 150:] = np.nan
    found = analyse(RATES, losses)
    assert found.divergence == pytest.approx(RATES[150])
    assert math.isnan(found.loss[150])
    losses[1, 150:] = np.inf
    assert analyse(RATES, losses).divergence == pytest.approx(RATES[150])


def test_a_ruined_run_that_never_reaches_four_times_its_best_counts_as_diverged() -> None:
    losses = np.minimum(curves(noise=0.01) * 1.0 + 3, 5.9)  # 5.3 -> 3.6 -> 5.9: below 4 x 3.6
    found = analyse(RATES, losses)
    assert found.divergence is not None
    assert 0.5 < found.divergence < 5


def test_high_starts_are_no_divergence() -> None:
    x = np.log10(RATES)
    losses = 100 / (1 + np.exp(3 * (x + 3))) + 1 + 0.01 * np.zeros((2, 1))
    found = analyse(RATES, losses)  # starts at 100 times its best
    assert found.divergence is None
    assert "nothing diverged" in str(found)
    assert found.high == pytest.approx(10 / 3)


def test_negative_losses_work() -> None:
    found = analyse(RATES, curves() - 5)
    assert found.drop is not None
    assert found.divergence is not None


@pytest.mark.parametrize(
    ("optimizer", "family"),
    [("adamw", "adam"), ("momentum", "sgd"), ("lion", "sign"), ("rmsprop", "rmsprop")],
)
def test_flat_curves_fall_back_by_family(optimizer: str, family: str) -> None:
    rng = np.random.default_rng(0)
    found = analyse(RATES, 2.3 + 0.02 * rng.standard_normal((3, 200)), optimizer)
    assert (found.low, found.high) == pytest.approx(FALLBACK[family])
    assert not found.measured
    assert found.suggestion is None
    assert "family" in str(found)


def test_flat_until_it_diverges() -> None:
    rng = np.random.default_rng(0)
    losses = 2.3 + 0.02 * rng.standard_normal((3, 200))
    losses[:, 100:] = np.nan
    found = analyse(RATES, losses)
    assert found.high == pytest.approx(RATES[100] / 3)
    assert found.low < found.high
    assert not found.measured


def test_everything_diverged_at_once() -> None:
    found = analyse(RATES, np.full((3, 200), np.nan))
    assert (found.low, found.high) == FALLBACK["adam"]
    assert found.divergence == pytest.approx(RATES[0])
    assert "not finite in the data" in found.reasons[0]


def test_units_of_the_loss_do_not_matter() -> None:
    once, again = analyse(RATES, curves()), analyse(RATES, curves() * 1e4)
    assert (again.low, again.high) == pytest.approx((once.low, once.high))


def test_the_lion_fallback_is_a_tenth_to_a_third_of_adams() -> None:
    adam, sign = FALLBACK["adam"], FALLBACK["sign"]
    assert sign == pytest.approx((adam[0] / 10, adam[1] / 3))


def test_on_sgd_of_a_noisy_quadratic_the_range_holds_the_stable_rates() -> None:
    h = 1 / np.arange(1, 21)
    rng = np.random.default_rng(0)
    losses = np.full((3, 200), np.nan)
    for row in losses:
        theta = rng.standard_normal(20) * 3
        for t, lr in enumerate(rates(1e-4, 100.0)):
            loss = 0.5 * float(h @ theta**2)
            if not loss < 1e6:
                break
            row[t] = loss
            theta -= lr * (h * theta + 0.1 * rng.standard_normal(20))
    found = analyse(rates(1e-4, 100.0), losses, "sgd")
    assert found.measured
    assert 0.1 < found.high < 6  # the stability limit is 2 / lambda_max = 2
    assert found.low < 0.1


@pytest.mark.parametrize(
    ("optimizer", "power"),
    [("adamw", 0.5), ("lion", 0.5), ("momentum", 1.0), ("adagrad", 0.0), ("prodigy", 0.0)],
)
def test_other_batch_sizes_move_each_end_by_the_optimizers_rule(
    optimizer: str, power: float
) -> None:
    found = analyse(RATES, curves(), optimizer)
    wide = found.across(64, 16, 256, optimizer)
    assert wide.low == pytest.approx(found.low / 4**power)
    assert wide.high == pytest.approx(found.high * 4**power)
    assert (len(wide.reasons) > len(found.reasons)) is (power > 0)
    assert found.across(64, 64, 64, optimizer) == found
    # An end that the test lies beyond stays: a range never shrinks.
    one_sided = found.across(16, 16, 256, optimizer)
    assert one_sided.low == found.low
    assert one_sided.high == pytest.approx(found.high * 16**power)


def test_json_and_space() -> None:
    losses = curves()
    losses[0, 190:] = np.nan
    found = analyse(RATES, losses)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["loss"][-1] is None
    assert found.to_space()["log"] is True
    assert found.to_space()["low"] == found.low


@pytest.mark.parametrize(
    ("lr", "losses", "error"),
    [
        (RATES, np.ones((3, 199)), InvalidInput),
        (RATES[:20], np.ones((3, 20)), InvalidInput),
        (RATES[::-1], np.ones((3, 200)), InvalidInput),
        (np.zeros(200), np.ones((3, 200)), InvalidInput),
    ],
)
def test_impossible_input(lr: Any, losses: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        analyse(lr, losses)


def test_impossible_settings() -> None:
    with pytest.raises(UnknownName):
        analyse(RATES, curves(), "nothing")
    with pytest.raises(InvalidInput, match="low"):
        rates(1.0, 0.1)
    with pytest.raises(InvalidInput, match="steps"):
        rates(steps=3)
