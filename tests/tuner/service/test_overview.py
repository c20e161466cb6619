from __future__ import annotations

import math

import optuna
import pytest

from tests.tuner.service.simulation import SPACE, Trainer, submit
from tuner import service
from tuner.errors import InvalidInput, NotFound
from tuner.protocol import Report
from tuner.service import Context
from tuner.storage import SqlStorage


def test_every_finished_trial_in_columns(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 12, "epochs": 2})
    Trainer(ctx, slots=4).work()
    found = service.overview(ctx, study.id)
    trials = service.list_trials(ctx, study.id).items
    assert (found.metrics, found.directions, found.whole) == (["val_loss"], ["minimize"], True)
    assert found.numbers == [t.number for t in trials]
    assert found.ids == [t.id for t in trials]
    assert found.values[0] == pytest.approx([t.value for t in trials], rel=1e-4)
    assert found.params["lr"] == pytest.approx([t.params["lr"] for t in trials], rel=1e-4)
    axes = {axis.name: axis for axis in found.axes}
    assert (axes["lr"].log, axes["lr"].low, axes["lr"].high) == (True, 1e-5, 1e-1)
    assert axes["batch_size"].choices == SPACE["batch_size"]["choices"]
    least = math.inf
    for number, value in found.best:
        assert value < least
        least = value
        assert value == pytest.approx(trials[number].value, rel=1e-4)
    assert least == pytest.approx(service.best(ctx, study.id)[0].value, rel=1e-4)
    assert found.front == []


def test_what_came_since_joins_what_is_known(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 12, "epochs": 2})
    trainer = Trainer(ctx, slots=4)
    trainer.lease()
    for _ in range(2):
        trainer.round()
    first = service.overview(ctx, study.id)
    assert (len(first.ids), first.finished) == (4, 4)
    none = service.overview(ctx, study.id, since=first.revision)
    assert (none.ids, none.whole, none.finished) == ([], False, 4)
    trainer.work()
    more = service.overview(ctx, study.id, since=first.revision)
    assert (more.whole, more.finished) == (False, 12)
    assert sorted(first.ids + more.ids) == service.overview(ctx, study.id).ids
    # Too much to be news: all of it again.
    assert service.overview(ctx, study.id, since=first.revision, max_trials=7).whole


def test_axes_of_a_study_that_optuna_made_are_what_its_trials_were_drawn_from(ctx: Context) -> None:
    study = optuna.create_study(storage=SqlStorage(ctx.db), study_name="optuna's own")
    assert service.overview(ctx, study._study_id).axes == []
    rates = {"low": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True)}
    rates["high"] = optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
    choices = [0.1234567, None, "a"]  # as they are, though the numbers of a picture are rounded
    for kind, rate in [(choices[0], rates["low"]), (choices[2], rates["high"])]:
        study.enqueue_trial({"kind": kind})
        trial = study.ask({"kind": optuna.distributions.CategoricalDistribution(choices)})
        trial.storage.set_trial_param(trial._trial_id, "lr", 5e-4, rate)
        study.tell(trial, 1.0)
    found = service.overview(ctx, study._study_id)
    kind, lr = found.axes
    assert (kind.name, kind.choices, kind.log) == ("kind", choices, False)
    assert (lr.name, lr.choices, lr.log, lr.low, lr.high) == ("lr", None, True, 1e-5, 1e-1)
    assert found.params["kind"] == [0.1234567, "a"]
    field = service.landscape(ctx, study._study_id, "kind", "lr")
    assert (field.columns, field.trials) == (choices, 2)


def test_many_trials_are_thinned_and_the_best_stay(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 60, "epochs": 1})
    Trainer(ctx, slots=20).work()
    found = service.overview(ctx, study.id, max_trials=20)
    assert found.finished == 60
    assert 10 < len(found.ids) <= 20
    assert {trial.id for trial in service.best(ctx, study.id, k=5)} <= set(found.ids)
    assert found.numbers == sorted(found.numbers)
    assert found.best == service.overview(ctx, study.id).best
    with pytest.raises(InvalidInput, match="below 1"):
        service.overview(ctx, study.id, max_trials=0)
    with pytest.raises(NotFound):
        service.overview(ctx, 999)


def test_a_value_that_looks_like_the_best_is_no_improvement(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 3, "epochs": 1})
    losses = iter((1.0000002, 1.0000001, 0.5))
    Trainer(ctx, slots=1, loss=lambda config, step: next(losses)).work()
    assert service.overview(ctx, study.id).best == [(0, 1.0000002), (2, 0.5)]


def test_failed_trials_have_no_value(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 1})
    trainer = Trainer(ctx, slots=2, loss=lambda config, step: math.inf)
    trainer.work()
    found = service.overview(ctx, study.id)
    assert (found.states, found.values, found.best) == (["fail"] * 2, [[None, None]], [])


def test_several_objectives_have_a_column_each_and_a_front(ctx: Context) -> None:
    objective = [
        {"metric": "val_loss", "direction": "minimize"},
        {"metric": "val_accuracy", "direction": "maximize"},
    ]
    study = submit(ctx, objective=objective, budget={"trials": 3, "epochs": 1})
    trainer = Trainer(ctx, slots=3)
    trainer.lease()
    report = trainer.next_report()
    slots = []
    for slot, told in zip(report.slots, [(3.0, 0.9), (1.0, 0.5), (3.5, 0.8)], strict=True):
        metrics = dict(zip(("val_loss", "val_accuracy"), told, strict=True))
        measured = slot.measurements[0].model_copy(update={"metrics": metrics})
        slots.append(slot.model_copy(update={"measurements": [measured]}))
    trainer.deliver(Report(slots=slots))
    found = service.overview(ctx, study.id)
    assert found.metrics == ["val_loss", "val_accuracy"]
    assert found.values == [[3.0, 1.0, 3.5], [0.9, 0.5, 0.8]]
    assert found.front == [found.ids[1], found.ids[0]]
    by_accuracy = service.list_trials(ctx, study.id, sort="value.1", order="desc").items
    assert [trial.number for trial in by_accuracy] == [0, 2, 1]
    with pytest.raises(InvalidInput, match=r"'value\.2' is none of"):
        service.list_trials(ctx, study.id, sort="value.2")
