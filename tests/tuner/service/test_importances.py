from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.errors import InvalidInput
from tuner.service import METHODS, Context, Evaluator

room = sys.modules["tuner.service.importances"]  # the package has a function of that name


@pytest.mark.parametrize("evaluator", list(METHODS))
def test_the_learning_rate_matters_most(ctx: Context, evaluator: Evaluator) -> None:
    study = submit(ctx, "wide", budget={"trials": 40, "epochs": 1})
    Trainer(ctx, slots=8).work()
    found = service.importances(ctx, study.id, evaluator=evaluator)
    assert (found.trials, found.complete, found.reason) == (40, 40, None)
    assert sum(found.importances.values()) == pytest.approx(1.0)
    assert next(iter(found.importances)) == "lr"
    assert found.importances["lr"] > 0.6
    assert found.meaning == METHODS[evaluator].meaning


def test_too_few_trials_say_why(ctx: Context) -> None:
    study = submit(ctx, "few", budget={"trials": 2, "epochs": 1})
    assert service.importances(ctx, study.id).reason == ("it takes 4 complete trials, not 0")
    Trainer(ctx).work()
    found = service.importances(ctx, study.id)
    assert found.importances == {}
    assert found.reason == "it takes 4 complete trials, not 2"


def test_no_spread_is_no_importance(ctx: Context) -> None:
    study = submit(ctx, "flat", budget={"trials": 8, "epochs": 1})
    Trainer(ctx, slots=8, loss=lambda config, step: 1.0).work()
    assert service.importances(ctx, study.id).reason == "all complete trials have the same value"


def test_many_trials_are_sampled(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    study = submit(ctx, "many", budget={"trials": 30, "epochs": 1})
    Trainer(ctx, slots=10).work()
    fewer = {name: replace(method, most=10) for name, method in METHODS.items()}
    monkeypatch.setattr(room, "METHODS", fewer)
    found = service.importances(ctx, study.id)
    assert (found.trials, found.complete) == (10, 30)


def test_a_study_that_runs_is_asked_at_most_now_and_then(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, "live", budget={"trials": 30, "epochs": 1})
    trainer = Trainer(ctx, slots=10)
    trainer.lease()
    trainer.round()
    assert service.importances(ctx, study.id).trials == 10
    trainer.round()
    assert service.importances(ctx, study.id).trials == 10
    clock.advance(room.GOOD_SECONDS)
    assert service.importances(ctx, study.id).trials == 20
    trainer.work()  # over: from here on only the truth will do
    assert service.importances(ctx, study.id).trials == 30


def test_of_few_trials_all_are_told_at_once(ctx: Context) -> None:
    study = submit(ctx, "few", budget={"trials": room.MANY - 1, "epochs": 1})
    trainer = Trainer(ctx, slots=3)
    trainer.lease()
    trainer.round()
    assert service.importances(ctx, study.id).reason == "it takes 4 complete trials, not 3"
    trainer.round()
    assert service.importances(ctx, study.id).trials == 6


def test_unknown_evaluators_are_refused(ctx: Context) -> None:
    study = submit(ctx)
    with pytest.raises(InvalidInput, match="none of ped_anova, fanova"):
        service.importances(ctx, study.id, evaluator="shap")  # type: ignore[arg-type]  # wrong
