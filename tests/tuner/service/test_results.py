"""Tables and figures of a study that really ran."""

from __future__ import annotations

import io
import json
import math

import optuna
import pandas as pd
import pytest

from tests.tuner.service.simulation import SPACE, Trainer, submit
from tuner import service
from tuner.errors import InvalidInput, NotFound
from tuner.protocol import Report
from tuner.service import Context, results


@pytest.fixture
def study_id(ctx: Context) -> int:
    """Twelve trials of four steps, one of which diverged."""
    study = submit(ctx, sampler="random", budget={"trials": 12, "epochs": 4})
    trainer = Trainer(ctx, slots=4)
    trainer.lease()
    report = trainer.next_report()
    bad = (
        report.slots[0]
        .measurements[0]
        .model_copy(update={"metrics": {"val_loss": math.inf, "val_accuracy": 0.1}})
    )
    slots = [report.slots[0].model_copy(update={"measurements": [bad]}), *report.slots[1:]]
    trainer.deliver(Report(slots=slots))
    trainer.work()
    return study.id


def test_csv_holds_every_trial(ctx: Context, study_id: int) -> None:
    frame = pd.read_csv(io.BytesIO(service.export(ctx, study_id, "csv")))
    shown = service.list_trials(ctx, study_id).items
    assert list(frame.number) == list(range(12))
    assert list(frame.state) == [t.state for t in shown]
    for row, trial in zip(frame.itertuples(), shown, strict=True):
        assert math.isnan(row.val_loss) if trial.value is None else row.val_loss == trial.value
    assert list(frame["params.lr"]) == [t.params["lr"] for t in shown]
    assert set(frame["params.optimizer"]) == {"adamw"}
    assert frame.reason.dropna().tolist() == ["diverged"]


def test_json_and_parquet_agree(ctx: Context, study_id: int) -> None:
    rows = json.loads(service.export(ctx, study_id, "json"))
    frame = pd.read_parquet(io.BytesIO(service.export(ctx, study_id, "parquet")))
    assert [r["number"] for r in rows] == list(frame.number)
    assert [r["params.lr"] for r in rows] == list(frame["params.lr"])
    failed = next(r for r in rows if r["state"] == "fail")
    assert failed["val_loss"] is None
    assert failed["metrics.val_loss"] == "inf"


def test_mixed_choices_go_into_parquet(ctx: Context) -> None:
    space = {**SPACE, "dropout": {"type": "categorical", "choices": [0, 0.5]}}
    study = submit(ctx, "mixed", space=space, budget={"trials": 6, "epochs": 1})
    Trainer(ctx).work()
    frame = pd.read_parquet(io.BytesIO(service.export(ctx, study.id, "parquet")))
    assert len(frame) == 6


def test_an_empty_study_exports(ctx: Context) -> None:
    study = submit(ctx, "empty")
    for kind in ("csv", "json", "parquet"):
        assert service.export(ctx, study.id, kind) is not None
    with pytest.raises(InvalidInput, match="none of csv"):
        service.export(ctx, study.id, "xls")
    with pytest.raises(NotFound):
        service.export(ctx, 999)


def test_figures_are_plotly(ctx: Context, study_id: int) -> None:
    for name in sorted(set(service.FIGURES) - {"pareto"}):
        drawn = service.figure(ctx, study_id, name)
        assert drawn["data"], name
        assert "layout" in drawn


def test_a_figure_of_many_trials_has_a_sample_of_them_and_those_that_led(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MOST_DRAWN", 4)
    study = submit(ctx, "long", sampler="random", budget={"trials": 20, "epochs": 2})
    values = [9.0, 5.0, 8.0, 8.0, 8.0, 8.0, 8.0, 4.0, *[7.0] * 12]
    told = iter([value for value in values for _ in range(2)])
    Trainer(ctx, slots=1, loss=lambda config, step: next(told)).work()
    drawn = service.figure(ctx, study.id, "history")
    assert drawn["data"][0]["y"] == [9.0, 5.0, 8.0, 4.0, 7.0, 7.0]
    assert drawn["data"][1]["y"] == [9.0, 5.0, 5.0, 4.0, 4.0, 4.0]
    assert drawn["layout"]["title"]["text"].endswith("(6 of 20 trials, numbered anew)")
    assert len(service.figure(ctx, study.id, "intermediate")["data"]) == 6


def test_figures_that_do_not_fit_are_refused(ctx: Context, study_id: int) -> None:
    with pytest.raises(InvalidInput, match="two or three objectives"):
        service.figure(ctx, study_id, "pareto")
    with pytest.raises(InvalidInput, match="is none of"):
        service.figure(ctx, study_id, "pie")


def test_trials_that_optuna_cannot_draw_are_refused(ctx: Context) -> None:
    """Its axis from the least value to the greatest is longer than a float can say."""
    study = submit(ctx, "far", budget={"trials": 2, "epochs": 1})
    losses = iter((1e308, -1e308))
    Trainer(ctx, slots=1, loss=lambda config, step: next(losses)).work()
    with pytest.raises(InvalidInput, match="cannot draw"):
        service.figure(ctx, study.id, "parallel")


def test_trials_in_optunas_form(ctx: Context, study_id: int) -> None:
    frozen = service.frozen_trials(ctx, study_id)
    assert [t.number for t in frozen] == list(range(12))
    states = [t.state for t in frozen]
    assert states.count(optuna.trial.TrialState.FAIL) == 1
    done = next(t for t in frozen if t.state == optuna.trial.TrialState.COMPLETE)
    assert sorted(done.intermediate_values) == [1, 2, 3, 4]
    assert done.value == done.intermediate_values[4]
    assert isinstance(done.distributions["lr"], optuna.distributions.FloatDistribution)


def test_optunas_form_of_trials_that_were_cancelled_pruned_or_break_the_constraint(
    ctx: Context,
) -> None:
    bound = {"metric": "val_accuracy", "max": 0.4}
    study = submit(ctx, "bound", constraint=bound, budget={"trials": 4, "epochs": 3})
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    service.enqueue(ctx, study.id, [{"lr": 1e-3, "batch_size": 16}])
    trainer.round()
    first, second = service.list_trials(ctx, study.id).items[:2]
    service.stop_trial(ctx, first.id)
    service.stop_study(ctx, study.id)
    frozen = {t.number: t for t in service.frozen_trials(ctx, study.id)}
    assert frozen[first.number].constraints == {"0": pytest.approx(0.1)}
    assert frozen[second.number].state == optuna.trial.TrialState.RUNNING
    assert service.figure(ctx, study.id, "history")["layout"]
    assert service.figure(ctx, study.id, "timeline")["data"]


def test_several_objectives_have_a_front(ctx: Context) -> None:
    study = submit(
        ctx,
        "two",
        sampler="random",
        objective=[
            {"metric": "val_loss", "direction": "minimize"},
            {"metric": "val_accuracy", "direction": "maximize"},
        ],
        budget={"trials": 6, "epochs": 1},
    )
    trainer = Trainer(ctx, slots=6)
    trainer.lease()
    report = trainer.next_report()
    told = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.7), (2.5, 0.6), (1.0, 0.4), (4.0, 0.9)]
    slots = []
    for slot, (loss, accuracy) in zip(report.slots, told, strict=True):
        metrics = {"val_loss": loss, "val_accuracy": accuracy}
        measured = slot.measurements[0].model_copy(update={"metrics": metrics})
        slots.append(slot.model_copy(update={"measurements": [measured]}))
    trainer.deliver(Report(slots=slots))
    front = service.best(ctx, study.id)
    assert [t.values for t in front] == [[1.0, 0.5], [2.0, 0.7], [3.0, 0.9]]
    assert service.best(ctx, study.id, k=2) == front[:2]
    assert service.figure(ctx, study.id, "pareto")["data"]
