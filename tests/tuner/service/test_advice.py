"""Advice on a study that really ran, by the trials and the noise scale that it stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from tests.tuner.service.simulation import Trainer, submit
from tuner import service
from tuner.errors import InvalidInput, NotFound, Refusal
from tuner.protocol import Measured
from tuner.service import Context, StudyView

GRID: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": {"type": "categorical", "choices": [1e-3 * 2.0 ** (i / 2) for i in range(-6, 7)]},
    "batch_size": {"type": "categorical", "choices": [8, 16, 32, 64]},
}


def bowl(config: Mapping[str, Any], step: int) -> float:
    """Lowest at lr = 1e-3 (B / 32)^1/3."""
    best = 1e-3 * (config["batch_size"] / 32) ** (1 / 3)
    return 1.0 / step + 0.1 * math.log2(config["lr"] / best) ** 2


def ran(ctx: Context, name: str = "grid", **changes: Any) -> StudyView:
    budget = {"trials": 52, "epochs": 1}
    study = submit(ctx, name, **{"space": GRID, "sampler": "grid", "budget": budget, **changes})
    Trainer(ctx, slots=16, loss=bowl).work()
    return study


def test_the_trials_of_the_study_come_first(ctx: Context) -> None:
    study = ran(ctx)
    said = service.advise_study(ctx, study.id, 128)
    assert (said.evidence, said.rule) == ("trials", "trials")
    assert said.lr == pytest.approx(1e-3 * 4 ** (1 / 3), rel=0.05)
    assert said.old == service.best(ctx, study.id)[0].config
    named = service.advise_study(ctx, study.id, 128, trial=3)
    assert named.old == service.list_trials(ctx, study.id).items[3].config
    assert named.lr == pytest.approx(said.lr)
    fitted = service.fit_studies(ctx, [study.id])
    assert fitted.exponent is not None
    assert fitted.exponent.value == pytest.approx(1 / 3, abs=0.05)


def test_too_few_trials_leave_it_to_a_rule_and_say_so(ctx: Context) -> None:
    study = ran(ctx, "few", budget={"trials": 3, "epochs": 1})
    said = service.advise_study(ctx, study.id, 128, rule="sqrt")
    best = service.best(ctx, study.id)[0].config
    assert said.lr == pytest.approx(best["lr"] * math.sqrt(128 / best["batch_size"]))
    assert any("your trials" in caution for caution in said.cautions)
    with pytest.raises(Refusal):
        service.advise_study(ctx, study.id, 128, rule="trials")


def test_the_noise_scale_that_a_trial_measured_comes_with_its_interval(ctx: Context) -> None:
    study = submit(ctx, "noisy", budget={"trials": 2, "epochs": 1})
    told = {"noise_scale": 500.0, "noise_scale_low": 300.0, "noise_scale_high": None}
    for asked in service.ask(ctx, study.id, 2):
        metrics = {"val_loss": asked.config["lr"], "val_accuracy": 0.5, **told}
        service.report_trial(ctx, asked.trial_id, asked.token, Measured(step=1, metrics=metrics))
        told = {"noise_scale": None, "noise_scale_low": 900.0, "noise_scale_high": None}
    first, second = sorted(service.list_trials(ctx, study.id).items, key=lambda t: t.number)
    by_noise = service.advise_study(ctx, study.id, 256, trial=first.number)
    assert (by_noise.evidence, by_noise.rule) == ("noise scale", "gain")
    assert by_noise.confidence == "low", "its upper end is unknown"
    by_rule = service.advise_study(ctx, study.id, 256, trial=second.number)
    assert by_rule.evidence == "rule"
    assert any("at least 900" in caution for caution in by_rule.cautions)
    beside = {"optimizer": "adamw", **first.config}
    asked_for = service.advise_config(ctx, beside, 256, studies=[study.id])
    assert (asked_for.rule, asked_for.lr) == ("gain", by_noise.lr)
    elsewhere = {**beside, "batch_size": 1024}
    assert service.advise_config(ctx, elsewhere, 256, studies=[study.id]).evidence == "rule"
    given = service.advise_config(ctx, beside, 256, studies=[study.id], noise_scale=1e6)
    assert given.lr > by_noise.lr
    with pytest.raises(InvalidInput, match="lr"):
        service.advise_config(ctx, {**beside, "lr": 0.0}, 256, studies=[study.id])


def test_losses_to_maximise_are_negated(ctx: Context) -> None:
    objective = {"metric": "val_accuracy", "direction": "maximize"}
    study = submit(ctx, "up", objective=objective, budget={"trials": 2, "epochs": 1})
    Trainer(ctx).work()
    seen = service.advice.observations(ctx, [study.id, study.id])
    assert [o.loss for o in seen] == [-0.5, -0.5]


def test_what_is_not_there_is_refused(ctx: Context) -> None:
    with pytest.raises(NotFound):
        service.advise_study(ctx, 99, 128)
    study = submit(ctx)
    with pytest.raises(InvalidInput, match="no finished trial"):
        service.advise_study(ctx, study.id, 128)
    with pytest.raises(NotFound):
        service.advise_study(ctx, study.id, 128, trial=7)
    with pytest.raises(InvalidInput, match="no finished trial"):
        service.fit_studies(ctx, [study.id])
