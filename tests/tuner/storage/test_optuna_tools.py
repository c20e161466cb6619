"""What is built on Optuna works on a study that the service stored: figures, the dashboard."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import httpx
import optuna
import optuna_dashboard
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from tuner.storage import Database, SqlStorage
from tuner.storage.models import Measurement, Study, Trial
from tuner.storage.optuna import frozen

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPACE = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "batch_size": IntDistribution(16, 128, log=True),
    "optimizer": CategoricalDistribution(("adamw", "sgd")),
    "momentum": FloatDistribution(0.0, 0.99),  # only with sgd
}
FIGURES = [
    "contour",
    "edf",
    "intermediate_values",
    "optimization_history",
    "parallel_coordinate",
    "param_importances",
    "rank",
    "slice",
    "terminator_improvement",
    "timeline",
]
# Reading is asked of both databases in test_optuna.py; drawing what was read, of one.
on_one = pytest.mark.parametrize("dialect", ["sqlite"])


def stored(database: Database, objectives: int = 1, trials: int = 24) -> int:
    """A study with trials in every state, written as the service writes them."""
    rng = random.Random(0)
    metrics = ["val_loss", "seconds"][:objectives]
    states = ["complete"] * 5 + ["pruned", "pruned", "fail"]
    with database.write() as session:
        study = Study(
            name="digits",
            spec={"objective": [{"metric": name, "direction": "minimize"} for name in metrics]},
            directions=["minimize"] * objectives,
            state="running",
            created_at=NOW,
            revision=trials + 2,
            next_number=trials + 2,
        )
        session.add(study)
        session.flush()
        for number in range(trials + 2):
            state = states[number % len(states)] if number < trials else "running"
            params = {
                "lr": 10 ** rng.uniform(-5, -1),
                "batch_size": rng.choice([16, 32, 64, 128]),
                "optimizer": rng.choice(["adamw", "sgd"]),
            }
            if params["optimizer"] == "sgd":
                params["momentum"] = rng.uniform(0, 0.99)
            loss = abs(params["lr"] - 1e-3) + rng.random() / 10
            trial = Trial(
                study_id=study.id,
                number=number,
                state=state,
                paused=number == trials,
                params=params,
                distributions=frozen.distributions_to({name: SPACE[name] for name in params}),
                values=[loss, rng.random()][:objectives] if state == "complete" else None,
                reason="diverged" if state == "fail" else None,
                revision=number + 1,
                created_at=NOW,
                started_at=NOW + timedelta(seconds=number),
                finished_at=NOW + timedelta(seconds=number + 5) if state != "running" else None,
            )
            session.add(trial)
            session.flush()
            for step in range(1, 5 if state == "complete" else 3):
                diverged = state == "fail" and step == 2
                session.add(
                    Measurement(
                        trial_id=trial.id,
                        attempt=1,
                        step=step,
                        value=None if diverged else loss + 1 / step,
                        metrics={"val_loss": float("nan") if diverged else loss + 1 / step},
                        created_at=NOW,
                    )
                )
        return study.id


@pytest.fixture
def storage(database: Database) -> SqlStorage:
    return SqlStorage(database)


@pytest.fixture
def study(storage: SqlStorage) -> optuna.Study:
    stored(storage.database)
    return optuna.load_study(study_name="digits", storage=storage)


def test_the_study_is_loaded_whole(study: optuna.Study) -> None:
    counts = {state: len(study.get_trials(states=(state,))) for state in TrialState}
    assert counts == {
        TrialState.COMPLETE: 15,
        TrialState.PRUNED: 6,
        TrialState.FAIL: 3,
        TrialState.RUNNING: 2,
        TrialState.WAITING: 0,
    }
    assert study.metric_names == ["val_loss"]
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert study.best_value == min(trial.values[0] for trial in complete)
    frame = study.trials_dataframe()
    assert len(frame) == 26
    assert frame.loc[study.best_trial.number, "params_lr"] == study.best_params["lr"]


@on_one
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_of_its_trials(study: optuna.Study, name: str) -> None:
    figure = getattr(optuna.visualization, f"plot_{name}")(study)
    assert len(figure.data) > 0
    assert figure.to_json()


def test_figures_show_every_curve(study: optuna.Study) -> None:
    figure = optuna.visualization.plot_intermediate_values(study)
    assert {trace.name for trace in figure.data} >= {"Trial0", "Trial5", "Trial25"}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_several_objectives_have_a_front(storage: SqlStorage) -> None:
    stored(storage.database, objectives=2)
    study = optuna.load_study(study_name="digits", storage=storage)
    assert study.metric_names == ["val_loss", "seconds"]
    front = study.best_trials
    assert front
    assert optuna.visualization.plot_pareto_front(study).layout.xaxis.title.text == "val_loss"
    assert len(optuna.visualization.plot_hypervolume_history(study, [2.0, 2.0]).data) > 0


@on_one
@pytest.mark.parametrize(
    "evaluator",
    [
        optuna.importance.FanovaImportanceEvaluator(seed=0),
        optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0),
        optuna.importance.PedAnovaImportanceEvaluator(),
    ],
    ids=lambda evaluator: type(evaluator).__name__,
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_importances_are_found(
    study: optuna.Study, evaluator: optuna.importance.FanovaImportanceEvaluator
) -> None:
    importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert set(importances) - {"momentum"} == {"lr", "batch_size", "optimizer"}
    assert sum(importances.values()) == pytest.approx(1.0)


def test_sampling_goes_on_in_the_study(study: optuna.Study) -> None:
    """Another program may add to it: TPE learns from our trials and numbers go on."""
    study.sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=1)
    trial = study.ask(SPACE)
    assert trial.number == 26
    study.tell(trial, 0.01)
    assert study.best_trial.number == 26


def test_optuna_dashboard_serves_it(storage: SqlStorage, study: optuna.Study) -> None:
    transport = httpx.WSGITransport(app=optuna_dashboard.wsgi(storage))
    with httpx.Client(transport=transport, base_url="http://dashboard") as client:
        listed = client.get("/api/studies").raise_for_status().json()
        assert [s["study_name"] for s in listed["study_summaries"]] == ["digits"]

        detail = client.get(f"/api/studies/{study._study_id}").raise_for_status().json()
        assert detail["name"] == "digits"
        assert len(detail["trials"]) == 26
        assert detail["best_trials"][0]["number"] == study.best_trial.number
        assert detail["objective_names"] == ["val_loss"]
        diverged = detail["trials"][7]
        assert diverged["state"] == "Fail"
        assert diverged["intermediate_values"][1]["value"] == "nan"

        importances = client.get(f"/api/studies/{study._study_id}/param_importances")
        assert importances.raise_for_status().json()["param_importances"][0]
        csv = client.get(f"/csv/{study._study_id}").raise_for_status().text
        assert len(csv.strip().splitlines()) == 27

        optuna_dashboard.save_note(study, "measured on two cores")
        detail = client.get(f"/api/studies/{study._study_id}").raise_for_status().json()
        assert detail["note"]["body"] == "measured on two cores"
