"""lr*(B) from random searches, where nothing but the task is shared exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tuner.advisor import Observation, fit
from tuner.advisor.surface import MOST_TRIALS, _thinned, applies, optima
from tuner.errors import Refusal


def search(
    exponent: float, trials: int, seed: int, noise: float = 0.02, decay_matters: float = 0.05
) -> list[Observation]:
    """Random lr over 8 octaves and decay over 4 decades; both move the loss."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(trials):
        x = rng.uniform(-12, -4)
        size = int(rng.choice([16, 32, 64, 128, 256, 512]))
        decay = float(10 ** rng.uniform(-4, 0))
        best = -8 + exponent * math.log2(size / 64)
        loss = 0.03 * (x - best) ** 2 + decay_matters * (math.log10(decay) + 2) ** 2
        out.append(
            Observation(
                2.0**x, size, loss + noise * rng.standard_normal(), facts={"weight_decay": decay}
            )
        )
    return out


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_finds_the_exponent_through_a_varying_decay(exponent: float) -> None:
    hits, values = 0, []
    for seed in range(6):
        found = fit(search(exponent, 150, seed), draws=150)
        assert found.exponent is not None, found.why
        values.append(found.exponent.value)
        hits += exponent in found.exponent
    assert np.mean(values) == pytest.approx(exponent, abs=0.06)
    assert hits >= 5


def test_each_optimum_is_near_the_truth() -> None:
    found, vertices = optima(search(0.5, 200, 1), ["weight_decay"], draws=200)
    interior = [o for o in found if o.kind == "interior"]
    assert len(interior) == vertices.shape[1] >= 5
    for o in interior:
        truth = -8 + 0.5 * math.log2(o.batch_size / 64)
        assert math.log2(o.lr or 0) == pytest.approx(truth, abs=0.8)


def test_too_few_trials_or_other_differences_stay_a_refusal() -> None:
    with pytest.raises(Refusal, match="weight_decay"):
        fit(search(0.5, 29, 0))
    few = [
        replace(o, facts={"weight_decay": 10.0 ** -(i % 4)})
        for i, o in enumerate(search(0.5, 90, 0))
    ]
    with pytest.raises(Refusal, match="weight_decay"):
        fit(few)  # four values are four studies, not a search
    named = [replace(o, facts={"schedule": "ab"[i % 2]}) for i, o in enumerate(search(0.5, 90, 0))]
    with pytest.raises(Refusal, match="schedule"):
        fit(named)
    assert not applies(search(0.5, 90, 0), {"weight_decay": [0.1, None]})


def test_an_optimum_at_the_edge_is_not_called_one() -> None:
    trials = [o for o in search(0.0, 200, 2) if o.lr < 2.0**-9]
    found, _ = optima(trials, ["weight_decay"], draws=100)
    assert all(o.kind != "interior" for o in found)


def test_wrecks_bound_and_never_count_as_losses() -> None:
    trials = search(0.5, 120, 3)
    wrecks = [replace(o, loss=-99.0, diverged=True) for o in trials[:10]]
    found, _ = optima([*trials[10:], *wrecks], ["weight_decay"], draws=100)
    assert sum(o.kind == "interior" for o in found) >= 4
    alone, _ = optima([*trials, Observation(0.5, 4096, 0.0, diverged=True)], draws=20)
    assert alone[-1].high == 0.5


def test_same_seed_same_answer() -> None:
    trials = search(0.5, 60, 4)
    once, again = (optima(trials, ["weight_decay"], seed=1, draws=50) for _ in range(2))
    assert once[0] == again[0]
    assert np.array_equal(once[1], again[1])


def test_thousands_of_trials_are_thinned_to_the_better_ones_and_a_spread() -> None:
    trials = search(0.5, 1000, 5)
    kept = _thinned(trials)
    assert len(kept) == MOST_TRIALS
    assert min(o.loss for o in kept) == min(o.loss for o in trials)
    assert max(o.loss for o in kept) == max(o.loss for o in trials)


def whole(exponent: float, trials: int, seed: int) -> list[Observation]:
    """Random lr over 8 octaves and any whole batch size from 16 to 512, and nothing else."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(trials):
        x, size = rng.uniform(-12, -4), round(2 ** rng.uniform(4, 9))
        best = -8 + exponent * math.log2(size / 64)
        loss = 0.03 * (x - best) ** 2 + 0.02 * rng.standard_normal()
        out.append(Observation(2.0**x, size, loss))
    return out


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_batch_sizes_that_were_searched_as_numbers(exponent: float) -> None:
    fits = [fit(whole(exponent, 80, seed), draws=200) for seed in range(6)]
    known = [f for f in fits if f.exponent is not None]
    assert len(known) >= 4
    assert np.mean([f.exponent.value for f in known if f.exponent]) == pytest.approx(
        exponent, abs=0.06
    )
    assert sum(f.exponent is not None and exponent in f.exponent for f in known) >= len(known) - 1
    truth = 2.0 ** (-8 + 2 * exponent)
    assert sum(truth in f.predict(256).lr for f in known) >= len(known) - 1
    assert all(o.batch_size in {t.batch_size for t in whole(exponent, 80, 0)}
               for o in fits[0].optima)  # fmt: skip


def test_few_trials_at_many_batch_sizes_stay_unidentified() -> None:
    found = fit(whole(0.5, 29, 0))
    assert not found.identified
    assert len(found.optima) > 8
