"""Planned studies: they parse, they pay for what they cost, and running them closes the loop."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from tests.tuner.advisor.databases import power
from tuner.advisor import Observation, fit
from tuner.advisor.plan import LEAST_TRIALS, Plan, plan
from tuner.errors import InvalidInput, Refusal
from tuner.spaces import Space

CONFIG = {"lr": 2.0**-8, "batch_size": 64, "weight_decay": 0.01, "schedule": "cosine"}


def make(trials: int = 60, **extra: Any) -> Plan:
    arguments: dict[str, Any] = {
        "task": {"name": "digits"},
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "epochs": 10,
        "optimizer": "adamw",
    }
    return plan(CONFIG, trials=trials, **(arguments | extra))


def run(study: dict[str, Any], optimum: Any, seed: int, noise: float = 0.02) -> list[Observation]:
    """Every point of the study on parabolas of curvature 0.03: noise over curvature is 0.7."""
    rng = np.random.default_rng(seed)
    space = Space.parse(study["space"])
    return [
        Observation(
            point["lr"],
            point["batch_size"],
            0.03 * (math.log2(point["lr"]) - optimum(point["batch_size"])) ** 2
            + noise * float(rng.standard_normal()),
        )
        for point in space.grid()
    ]


def test_the_study_is_one_the_service_takes() -> None:
    found = make()
    space = Space.parse(found.study["space"])
    assert space.grid_size == found.trials == found.study["budget"]["trials"]
    assert found.study["sampler"]["name"] == "grid"
    assert found.study["pruner"] == {"name": "none"}
    assert make(seed=3).study["seed"] == 3
    assert found.study["space"]["weight_decay"] == 0.01
    assert found.study["space"]["optimizer"] == "adamw"
    assert found.study["budget"]["epochs"] == 10
    assert json.loads(json.dumps(found.to_dict()))["trials"] == found.trials


@pytest.mark.parametrize("trials", [15, 20, 37, 60, 150, 1000])
def test_never_over_budget_and_always_identifiable(trials: int) -> None:
    found = make(trials)
    assert found.trials <= trials
    assert len(found.batch_sizes) >= 3
    assert found.batch_sizes[-1] >= 8 * found.batch_sizes[0]
    assert len(found.lrs) >= 5
    assert list(found.lrs) == sorted(set(found.lrs))


def test_more_trials_tell_more() -> None:
    errors = [make(trials).prediction_error for trials in (15, 30, 60, 120, 240)]
    assert all(later <= once * 1.02 for once, later in itertools.pairwise(errors))
    assert errors[-1] < errors[0] / 2


def test_sgd_allows_for_steeper_rises() -> None:
    adam, sgd = make(), make(optimizer="sgd")
    assert sgd.lrs[-1] / sgd.lrs[0] > adam.lrs[-1] / adam.lrs[0]


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.6])
def test_running_it_identifies_the_exponent_as_well_as_it_said(exponent: float) -> None:
    found = make(80)
    assert found.chance == 1
    errors = []
    for seed in range(60):
        result = fit(run(found.study, power(exponent), seed), draws=50)
        assert result.exponent is not None, result.why
        errors.append(result.exponent.value - exponent)
    assert np.std(errors) < 1.5 * found.exponent_error
    assert abs(np.mean(errors)) < 0.02


def test_it_beats_a_naive_grid_of_the_same_cost() -> None:
    found = make(48)
    naive = dict(found.study)
    naive["space"] = dict(found.study["space"])
    naive["space"]["batch_size"] = {"type": "categorical", "choices": [16, 32, 64, 128, 256, 512]}
    naive["space"]["lr"] = {
        "type": "categorical",
        "choices": [10.0**e for e in range(-6, 2)],  # a decade apart, as grids often are
    }
    planned = [fit(run(found.study, power(0.3), s), draws=20).identified for s in range(20)]
    decades = [fit(run(naive, power(0.3), s), draws=20).identified for s in range(20)]
    assert sum(planned) >= 19
    assert sum(decades) == 0


def test_asking_again_closes_the_loop() -> None:
    first = make(40)
    before, after = [], []
    for seed in range(10):
        known = run(first.study, power(0.4), seed)
        once = fit(known, draws=200)
        second = make(40, fit=once)
        assert second.exponent_error <= first.exponent_error
        both = fit([*known, *run(second.study, power(0.4), seed + 100)], draws=200)
        assert once.exponent is not None
        assert both.exponent is not None
        before.append(once.exponent.high - once.exponent.low)
        after.append(both.exponent.high - both.exponent.low)
    assert np.mean(after) < 0.85 * np.mean(before)


def test_the_target_is_aimed_at() -> None:
    found = make(target=2048)
    assert found.batch_sizes[-1] == 2048
    assert "2048" in found.why
    held = make(target=4096, largest=512)
    assert held.batch_sizes[-1] == 512
    assert held.prediction_error > make(largest=512).prediction_error


def test_the_text_says_what_to_expect() -> None:
    found = make()
    assert f"+-{found.exponent_error:.2f}" in found.why
    assert str(found).startswith(f"{found.trials} trials")
    assert "would tell" not in found.why
    poor = make(15)
    assert poor.chance < 1
    assert f"only {poor.chance:.0%}" in poor.why


def test_same_question_same_plan() -> None:
    assert make() == make()


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"trials": LEAST_TRIALS - 1}, "trials"),
        ({"smallest": 64, "largest": 256}, "largest"),
    ],
)
def test_refuses_what_cannot_be_told(extra: dict[str, Any], field: str) -> None:
    with pytest.raises(Refusal) as caught:
        make(**extra)
    assert caught.value.field == field
    assert caught.value.facts["instead"]


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"noise": 0.0}, "noise"),
        ({"smallest": 0}, "smallest"),
        ({"optimizer": None}, "optimizer"),
        ({"epochs": 2.5}, "epochs"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_impossible_values(extra: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make(**extra)
    assert caught.value.field == field
