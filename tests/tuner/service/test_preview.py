from __future__ import annotations

import math

import pytest

from tests.tuner.service.simulation import SPACE, Trainer, spec, submit
from tuner import service
from tuner.service import Context
from tuner.spec import facts, freeze

SCHEDULED = {
    "optimizer": "adamw",
    "lr": 0.01,
    "schedule": "linear",
    "warmup_fraction": 0.5,
    "batch_size": {"type": "categorical", "choices": [16, 32]},
}


def test_the_learning_rates_of_the_samples(ctx: Context) -> None:
    found = service.preview(ctx, spec(space=SCHEDULED))
    assert len(found.rates) == len(found.samples) == 10
    for rates in found.rates:
        top = rates.index(max(rates))
        assert max(rates) == pytest.approx(0.01, rel=0.05)
        assert top == pytest.approx(len(rates) / 2, abs=2)
        assert rates[:top] == sorted(rates[:top])
        assert rates[top:] == sorted(rates[top:], reverse=True)
        assert rates[-1] < 0.001


def test_milestones_in_steps_are_where_they_belong(ctx: Context) -> None:
    cut = {"schedule": "multistep", "schedule.milestones": "500", "schedule.unit": "step"}
    space = {**SCHEDULED, **cut, "warmup_fraction": 0.0, "batch_size": 16}
    found = service.preview(ctx, spec(space=space, budget={"trials": 1, "epochs": 12}))
    steps = 12 * math.ceil(facts("digits", freeze({})).train_size / 16)
    (rates,) = {tuple(one) for one in found.rates}
    assert rates[0] == 0.01
    assert rates.index(min(rates)) == pytest.approx(60 * 500 / steps, abs=1.5)


def test_an_own_loop_has_rates_too(ctx: Context) -> None:
    space = {"lr": {"type": "float", "low": 0.1, "high": 0.2}, "schedule": "cosine"}
    found = service.preview(ctx, spec(task=None, space=space))
    for rates, sample in zip(found.rates, found.samples, strict=True):
        assert rates[0] == pytest.approx(sample["lr"], rel=1e-3)
    odd = {**space, "schedule": {"type": "categorical", "choices": ["mine", "yours"]}}
    assert service.preview(ctx, spec(task=None, space=odd)).rates == [[]] * 10


def test_the_cost_is_known_from_trials_of_the_same_task(ctx: Context) -> None:
    wanted = spec("next", budget={"trials": 10, "epochs": 4})
    before = service.preview(ctx, wanted)
    assert (before.trials, before.total_epochs, before.device_seconds) == (10, 40.0, None)
    submit(ctx, "past", space=SPACE, budget={"trials": 4, "epochs": 2}, eval_every=0.5)
    Trainer(ctx).work()
    # Half a second for each evaluation, which is half an epoch.
    assert service.preview(ctx, wanted).device_seconds == pytest.approx(40.0)
    assert service.preview(ctx, spec("x", task={"name": "digits_cnn"})).device_seconds is None
    total = spec("y", budget={"trials": 10, "epochs": 4, "total_epochs": 20})
    assert service.preview(ctx, total).device_seconds == pytest.approx(20.0)
