"""A study that the service ran, from submission to its last report, seen through Optuna."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import optuna
import optuna_dashboard
import pytest
from optuna.trial import TrialState

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.errors import Conflict, InvalidInput
from tuner.service import Context, StudyView
from tuner.storage import SqlStorage

TRIALS = 24


@pytest.fixture
def ctx(database_url: str) -> Iterator[Context]:
    opened = Context.open(database_url, now=Clock())
    yield opened
    opened.close()


@pytest.fixture
def ran(ctx: Context) -> StudyView:
    """Two workers, TPE and ASHA: most trials are pruned, one worker's divergence among them."""
    study = submit(ctx, sampler="tpe", pruner="asha", budget={"trials": TRIALS, "epochs": 9})
    diverging = Trainer(ctx, slots=1, loss=lambda config, step: float("nan"))
    diverging.lease()
    workers = [Trainer(ctx, slots=4) for _ in range(2)]
    for worker in workers:
        worker.lease()
    diverging.round()
    diverging.held.clear()
    service.leave(ctx, diverging.id)
    for _ in range(300):
        for worker in workers:
            if worker.held or worker.lease():
                worker.round()
        if service.show_study(ctx, study.id).state == "completed":
            break
    return service.show_study(ctx, study.id)


@pytest.fixture
def study(ctx: Context, ran: StudyView) -> optuna.Study:
    return optuna.load_study(study_name=ran.name, storage=SqlStorage(ctx.db))


def test_optuna_sees_what_the_service_says(
    ctx: Context, ran: StudyView, study: optuna.Study
) -> None:
    assert ran.state == "completed"
    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    counts = {state: sum(t.state == state for t in trials) for state in TrialState}
    assert counts[TrialState.COMPLETE] == ran.counts.complete > 0
    assert counts[TrialState.PRUNED] == ran.counts.pruned > 0
    assert counts[TrialState.FAIL] == ran.counts.fail == 1
    assert ran.best is not None
    assert study.best_trial.number == ran.best.number
    assert study.best_value == ran.best.value
    assert study.best_params.items() <= ran.best.config.items()
    assert study.metric_names == ["val_loss"]
    for trial in trials:
        stored = service.measurements(ctx, trial._trial_id)
        assert list(trial.intermediate_values) == [point.step for point in stored]
        assert set(trial.params) == set(trial.distributions) == {"lr", "batch_size"}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_tools_work_on_it(ran: StudyView, study: optuna.Study) -> None:
    importances = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    assert next(iter(importances)) == "lr"  # the loss depends on nothing else
    for name in ("optimization_history", "intermediate_values", "slice", "timeline"):
        assert len(getattr(optuna.visualization, f"plot_{name}")(study).data) > 0
    transport = httpx.WSGITransport(app=optuna_dashboard.wsgi(study._storage))
    with httpx.Client(transport=transport, base_url="http://dashboard") as client:
        detail = client.get(f"/api/studies/{ran.id}").raise_for_status().json()
        assert len(detail["trials"]) == TRIALS
        assert [trial["number"] for trial in detail["best_trials"]] == [study.best_trial.number]


def test_a_running_study_is_followed(ctx: Context) -> None:
    """The door's cache sees each report as it comes, without reading what has ended again."""
    view = submit(ctx, budget={"trials": 4, "epochs": 3})
    door = SqlStorage(ctx.db)
    worker = Trainer(ctx, slots=2)
    worker.lease()
    lengths = []
    while worker.held:
        worker.round()
        trials = door.get_all_trials(view.id, deepcopy=False)
        lengths.append(sum(len(trial.intermediate_values) for trial in trials))
    assert lengths == [2, 4, 6, 8, 10, 12]
    finished = door.get_all_trials(view.id, deepcopy=False)
    again = door.get_all_trials(view.id, deepcopy=False)
    assert all(a is b for a, b in zip(finished, again, strict=True))


def test_what_optuna_ends_is_lost_to_its_worker(ctx: Context) -> None:
    view = submit(ctx, budget={"trials": 2, "epochs": 3})
    worker = Trainer(ctx, slots=2)
    first, _ = worker.lease()
    study = optuna.load_study(study_name=view.name, storage=SqlStorage(ctx.db))
    study._storage.set_trial_state_values(first.trial_id, TrialState.COMPLETE, [0.5])
    verdicts = {v.trial_id: v.action for v in worker.round().verdicts}
    assert verdicts[first.trial_id] == "lost"
    worker.work()
    done = service.show_study(ctx, view.id)
    assert (done.state, done.counts.complete) == ("completed", 2)
    assert service.show_trial(ctx, first.trial_id).value == 0.5


def test_what_optuna_enqueues_a_worker_trains(ctx: Context) -> None:
    """Optuna itself would give it its params only when it takes it."""
    view = submit(ctx, budget={"trials": 2, "epochs": 2})
    study = optuna.load_study(study_name=view.name, storage=SqlStorage(ctx.db))
    study.enqueue_trial({"lr": 0.002, "batch_size": 32})
    with pytest.raises(InvalidInput, match="batch_size: is missing"):
        study.enqueue_trial({"lr": 0.002})
    worker = Trainer(ctx, slots=1)
    (leased,) = worker.lease()
    assert leased.config == {"optimizer": "adamw", "lr": 0.002, "batch_size": 32}
    worker.work()
    trial = study.trials[0]
    assert (trial.params, set(trial.distributions)) == (
        {"lr": 0.002, "batch_size": 32},
        {"lr", "batch_size"},
    )
    with pytest.raises(Conflict, match="completed"):
        study.enqueue_trial({"lr": 0.002, "batch_size": 64})
    assert service.show_study(ctx, view.id).counts.total == 2


def test_optuna_enqueues_no_trial_beyond_the_budget_and_takes_its_own(ctx: Context) -> None:
    view = submit(ctx, budget={"trials": 1, "epochs": 2})
    study = optuna.load_study(study_name=view.name, storage=SqlStorage(ctx.db))
    study.enqueue_trial({"lr": 0.002, "batch_size": 32})
    with pytest.raises(Conflict, match="room for 0 more"):
        study.enqueue_trial({"lr": 0.003, "batch_size": 32})
    trial = study.ask()
    assert trial.suggest_float("lr", 1e-5, 1e-1, log=True) == 0.002
    study.tell(trial, 0.5)
    service.tick(ctx)
    assert service.show_study(ctx, view.id).state == "completed"


def test_a_trial_that_optuna_fails_has_no_values(ctx: Context) -> None:
    """Its last report's would keep Optuna from copying the study."""
    view = submit(ctx)
    worker = Trainer(ctx, slots=1)
    (leased,) = worker.lease()
    worker.round()
    storage = SqlStorage(ctx.db)
    storage.set_trial_state_values(leased.trial_id, TrialState.FAIL)
    (trial,) = storage.get_all_trials(view.id)
    assert (trial.state, trial.values) == (TrialState.FAIL, None)
    trial._validate()


def test_the_service_neither_runs_nor_breaks_on_a_study_of_optunas(
    ctx: Context, caplog: pytest.LogCaptureFixture
) -> None:
    study = optuna.create_study(study_name="theirs", storage=SqlStorage(ctx.db))
    study.enqueue_trial({"x": 0.5})
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    study.enqueue_trial({"x": 0.25})
    worker = Trainer(ctx, slots=4)
    service.tick(ctx)
    service.look_ahead(ctx)
    assert [r for r in caplog.records if r.exc_info] == []
    assert worker.lease() == []
    view = service.find_study(ctx, "theirs")
    assert view is not None
    assert (view.state, view.counts.complete, view.counts.waiting) == ("running", 2, 1)
    assert view.best is not None
    assert view.best.value == study.best_value
    assert len(service.list_trials(ctx, view.id).items) == 3
    (name,) = service.overview(ctx, view.id).metrics
    assert name == service.curves(ctx, view.id).metric
    assert service.trials_frame(ctx, view.id)[name].min() == study.best_value


def test_a_study_that_optuna_deletes_is_told_of(ctx: Context) -> None:
    study = submit(ctx)
    optuna.delete_study(study_name=study.name, storage=SqlStorage(ctx.db))
    assert service.find_study(ctx, study.name) is None
    told = service.audit(ctx).items[0]
    assert (told.kind, told.data["name"]) == ("study.deleted", study.name)
    with pytest.raises(KeyError):
        optuna.delete_study(study_name=study.name, storage=SqlStorage(ctx.db))


def test_the_service_ends_no_study_of_optunas_over_its_trials(ctx: Context) -> None:
    study = optuna.create_study(study_name="theirs", storage=SqlStorage(ctx.db))
    trial = study.ask()
    with pytest.raises(InvalidInput, match="made through Optuna"):
        service.tell(ctx, trial._trial_id, "token", values=1.0)
    view = service.find_study(ctx, "theirs")
    assert view is not None
    assert view.state == "running"
    study.tell(trial, 1.0)
