"""The swarm through Optuna's own conformance suite, and what it adds up to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from tuner.samplers.pso import PsoSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestPso(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: PsoSampler(seed=0)


def ellipsoid(trial: optuna.Trial) -> float:
    x = np.array([trial.suggest_float(f"x{i}", -5, 5) for i in range(4)])
    c = trial.suggest_categorical("c", ["far", "near", "middle"])
    return float((10.0 ** np.arange(4) * x**2).sum()) + {"far": 50, "near": 0, "middle": 9}[c]


def test_the_swarm_beats_random_search() -> None:
    def best(sampler: BaseSampler) -> float:
        study = optuna.create_study(sampler=sampler)
        study.optimize(ellipsoid, n_trials=250)
        return study.best_value

    swarm = [best(PsoSampler(seed=s)) for s in range(3)]
    blind = [best(optuna.samplers.RandomSampler(seed=s)) for s in range(3)]
    assert max(swarm) < 0.1 * min(blind)


def test_it_maximises() -> None:
    study = optuna.create_study(sampler=PsoSampler(seed=0), direction="maximize")
    study.optimize(lambda t: -ellipsoid(t), n_trials=150)
    assert study.best_value > -30


def test_a_swarm_without_pull_keeps_its_velocity() -> None:
    sampler = PsoSampler(particles=2, inertia=1.0, cognitive=0.0, social=0.0, seed=1)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_float("y", 0, 1), n_trials=12)
    course = [t.system_attrs["pso"] for t in study.trials if "pso" in t.system_attrs]
    mine = [c for c in course if c["particle"] == 0]
    for before, after in pairwise(mine):
        moved = np.array(after["position"]) - np.array(before["position"])
        inside = (np.array(after["position"]) % 1 > 0).all()
        if inside:
            np.testing.assert_allclose(moved, before["velocity"], atol=1e-12)
    assert len(mine) >= 4


def test_the_swarm_goes_where_the_constraint_is_kept() -> None:
    def constrained(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        trial.set_constraint("sum", 1.2 - x - y)
        return x + y

    study = optuna.create_study(sampler=PsoSampler(seed=0))
    study.optimize(constrained, n_trials=150)
    late = [t.values[0] for t in study.trials[100:]]
    assert study.best_value == pytest.approx(1.2, abs=0.02)
    assert np.median(late) == pytest.approx(1.2, abs=0.1)
