"""Advice on a study that really ran, by the trials and the noise scale that it stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.service.simulation import Trainer, submit
from tuner import service
from tuner.errors import InvalidInput, NotFound, Refusal
from tuner.protocol import Measured
from tuner.service import Context, StudyView, advice
from tuner.spec import StudySpec

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


def test_the_task_and_its_parameters_are_facts(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").write_text("x,y\n" + "1,a\n2,b\n" * 40)
    params = {"path": str(tmp_path / "numbers.csv"), "target": "y", "valid": 0.25}
    changes = {"space": {"lr": 1e-3, "batch_size": 8}, "sampler": "grid"}
    study = submit(ctx, task={"name": "tabular", "params": params}, **changes)
    (trial,) = service.ask(ctx, study.id, 1)
    told = Measured(step=4, metrics={"val_loss": 1.0})
    service.report_trial(ctx, trial.trial_id, trial.token, told)
    (seen,) = service.advice.observations(ctx, [study.id])
    assert (seen.facts["task"], seen.facts["task.valid"]) == ("tabular", 0.25)


COARSE: dict[str, Any] = {
    **GRID,
    "lr": {"type": "categorical", "choices": [1e-3 * 2.0**i for i in range(-3, 4)]},
}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"budget": {"trials": 28, "epochs": 2}}, ["epochs"]),
        ({"objective": {"metric": "val_accuracy", "direction": "maximize"}}, ["direction"]),
        ({"objective": {"metric": "val_accuracy"}}, ["metric"]),
        ({"space": {**COARSE, "optimizer": "sgd"}}, ["optimizer"]),
    ],
)
def test_studies_of_other_settings_are_refused_by_name(
    ctx: Context, changes: dict[str, Any], names: list[str]
) -> None:
    budget = {"trials": 28, "epochs": 1}
    first = ran(ctx, "first", space=COARSE, budget=budget)
    second = ran(ctx, "second", **{"space": COARSE, "budget": budget, **changes})
    with pytest.raises(Refusal) as caught:
        service.fit_studies(ctx, [first.id, second.id])
    assert caught.value.field in names
    config = {"optimizer": "adamw", "lr": 1e-3, "batch_size": 32}
    said = service.advise_config(ctx, config, 128, studies=[first.id, second.id])
    assert said.evidence == "rule"
    assert any(names[0] in caution for caution in said.cautions)


def test_trials_of_the_same_epochs_do_not_answer_for_the_same_steps(ctx: Context) -> None:
    study = ran(ctx)
    said = service.advise_study(ctx, study.id, 128, fixed="steps")
    assert (said.evidence, said.rule) == ("rule", "keep")
    assert any("same epochs" in caution for caution in said.cautions)


def test_what_our_workers_train_by_default_is_known(ctx: Context) -> None:
    space = {"lr": {"type": "categorical", "choices": [1e-3, 2e-3]}}
    study = submit(ctx, "silent", space=space, budget={"trials": 2, "epochs": 1})
    Trainer(ctx).work()
    seen = service.advice.observations(ctx, [study.id])
    assert [(o.batch_size, o.facts["optimizer"]) for o in seen] == [(32, "adamw")] * 2
    said = service.advise_study(ctx, study.id, 64)
    assert said.old["batch_size"] == 32
    assert not any("assumed" in caution for caution in said.cautions)
    constant = {"optimizer": "sgd", "weight_decay": {"type": "categorical", "choices": [0.0, 0.1]}}
    other = submit(ctx, "constant", space=constant, budget={"trials": 2, "epochs": 1})
    Trainer(ctx, loss=lambda config, step: 1.0).work()
    assert service.advise_study(ctx, other.id, 64).old["lr"] == 1e-2


def own(ctx: Context, name: str, space: dict[str, Any]) -> int:
    """A study whose trials a loop of the user's own has run."""
    raw = {"name": name, "space": space, "sampler": "grid", "budget": {"trials": 60}}
    study_id = service.submit(ctx, StudySpec.parse(raw)).id
    while asked := service.ask(ctx, study_id, 50):
        for trial in asked:
            value = bowl({"batch_size": 32, **trial.config}, 1)
            service.tell(ctx, trial.trial_id, trial.token, values=value)
    return study_id


def test_what_a_loop_of_ones_own_does_not_say_is_not_made_up(ctx: Context) -> None:
    study_id = own(ctx, "silent", {"lr": GRID["lr"]})
    with pytest.raises(InvalidInput, match=r"trial \d+ has no batch_size"):
        service.advise_study(ctx, study_id, 64)
    with pytest.raises(InvalidInput, match="no finished trial has both lr and batch_size"):
        service.fit_studies(ctx, [study_id])
    named = own(ctx, "named", {"lr": GRID["lr"], "batch_size": 32})
    cautions = service.advise_study(ctx, named, 64).cautions
    assert any("adamw is assumed" in caution for caution in cautions)


def test_a_loop_that_says_its_steps_answers_for_steps(ctx: Context) -> None:
    space = {**GRID, "steps": 500}
    study_id = own(ctx, "steps", space)
    assert service.advise_study(ctx, study_id, 128, fixed="steps").evidence == "trials"
    said = service.advise_study(ctx, study_id, 128)
    assert said.evidence == "rule"
    assert any("same steps" in caution for caution in said.cautions)


def test_trials_that_ended_early_have_no_final_loss(ctx: Context) -> None:
    pruner = {"name": "patience", "patience": 1, "n_warmup_steps": 0}
    study = submit(ctx, "early", pruner=pruner, budget={"trials": 2, "epochs": 6})
    Trainer(ctx, loss=lambda config, step: float(step)).work()
    trials = service.list_trials(ctx, study.id).items
    assert {(trial.state, trial.step < trial.max_step) for trial in trials} == {("complete", True)}
    assert service.advice.observations(ctx, [study.id]) == []
    with pytest.raises(InvalidInput, match="there is no finished trial to fit"):
        service.fit_studies(ctx, [study.id])


def test_trials_that_broke_a_constraint_count(ctx: Context) -> None:
    constraint = {"metric": "val_accuracy", "max": 0.1}
    study = submit(ctx, "bound", constraint=constraint, budget={"trials": 2, "epochs": 1})
    Trainer(ctx).work()
    assert len(service.advice.observations(ctx, [study.id])) == 2


def test_of_very_many_trials_the_first_are_evidence_and_no_study_goes_unseen(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ran(ctx), ran(ctx, "second")
    every = service.observed(ctx, [first.id, second.id])
    assert len(every) == 104
    monkeypatch.setattr(advice, "MOST_OBSERVATIONS", 60)
    assert service.observed(ctx, [first.id, second.id]) == every[:60]
    monkeypatch.setattr(advice, "MOST_OBSERVATIONS", 20)
    assert service.observed(ctx, [first.id, second.id]) == every[:20]
    with pytest.raises(NotFound):
        service.observed(ctx, [first.id, 999])
