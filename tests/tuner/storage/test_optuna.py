"""The door for Optuna: its own conformance suite, and what that suite does not ask."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, json_to_distribution
from optuna.study import StudyDirection
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState, create_trial
from sqlalchemy import event, select

from tuner.storage import Database, SqlStorage
from tuner.storage.direct import Direct
from tuner.storage.models import Measurement, Study, Trial
from tuner.storage.optuna import frozen


@pytest.fixture
def storage(database_url: str) -> Iterator[SqlStorage]:
    opened = SqlStorage(database_url)
    yield opened
    opened.database.dispose()


class TestConformance(StorageTestCase):
    """All of ``optuna.testing.pytest_storages``, on both databases."""


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPEC = {"name": "digits", "objective": {"metric": "val_loss", "direction": "minimize"}}
LR = FloatDistribution(1e-4, 1e-1, log=True)


@pytest.fixture
def statements(storage: SqlStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every statement that the storage sends, transaction control aside."""
    sent: list[str] = []

    def note(statement: str) -> None:
        if not statement.startswith(("BEGIN", "COMMIT", "PRAGMA")):
            sent.append(statement)

    def listen(_c: object, _cursor: object, statement: str, *_: object) -> None:
        note(statement)

    for name in ("rows", "run", "run_many"):
        execute = getattr(Direct, name)

        def noted(self: Direct, text: str, *how: Any, execute: Any = execute) -> Any:
            note(text)
            return execute(self, text, *how)

        monkeypatch.setattr(Direct, name, noted)
    event.listen(storage.database.engine, "before_cursor_execute", listen)
    yield sent
    event.remove(storage.database.engine, "before_cursor_execute", listen)


def serve(database: Database, trials: int = 1, **columns: object) -> int:
    """A study as the service writes it, with running trials; returns its id."""
    with database.write() as session:
        study = Study(
            name="digits",
            spec=SPEC,
            directions=["minimize"],
            state="running",
            created_at=NOW,
            revision=trials,
            next_number=trials,
        )
        session.add(study)
        session.flush()
        for number in range(trials):
            columns = {"state": "running", "started_at": NOW, **columns}
            session.add(
                Trial(
                    study_id=study.id,
                    number=number,
                    params={"lr": 0.01},
                    distributions=frozen.distributions_to({"lr": LR}),
                    revision=number + 1,
                    created_at=NOW,
                    **columns,
                )
            )
        return study.id


def test_a_finished_trial_is_read_once(storage: SqlStorage, statements: list[str]) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    for _ in range(5):
        trial_id = storage.create_new_trial(study_id)
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
    first = storage.get_all_trials(study_id, deepcopy=False)
    statements.clear()
    second = storage.get_all_trials(study_id, deepcopy=False)
    assert len(statements) == 1  # has anything changed?
    assert all(a is b for a, b in zip(first, second, strict=True))

    storage.create_new_trial(study_id)
    statements.clear()
    third = storage.get_all_trials(study_id, deepcopy=False)
    assert len(statements) == 1  # what this process wrote it knows
    assert all(a is b for a, b in zip(first, third[:-1], strict=True))


def test_one_change_of_a_trial_is_few_statements(
    storage: SqlStorage, statements: list[str]
) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    storage.get_all_trials(study_id)
    trial_id = storage.create_new_trial(study_id)
    statements.clear()
    storage.set_trial_intermediate_value(trial_id, 1, 0.5)
    at_once = storage.database.dialect == "postgresql"
    assert len(statements) == (1 if at_once else 3)  # the study's revision, the trial, its point


def test_another_process_sees_every_change(storage: SqlStorage, database_url: str) -> None:
    other = SqlStorage(database_url)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "shared")
    trial_id = storage.create_new_trial(study_id)
    assert other.get_all_trials(study_id)[0].params == {}
    storage.set_trial_param(trial_id, "lr", 0.01, LR)
    assert other.get_trial(trial_id).params == {"lr": 0.01}
    storage.set_trial_intermediate_value(trial_id, 3, 0.5)
    assert other.get_all_trials(study_id)[0].intermediate_values == {3: 0.5}
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    assert other.get_best_trial(study_id).number == 0
    storage.delete_study(study_id)
    with pytest.raises(KeyError):
        other.get_all_trials(study_id)
    with pytest.raises(KeyError):
        other.get_trial(trial_id)


def test_processes_that_change_one_trial_lose_nothing(
    storage: SqlStorage, database_url: str
) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    trial_id = storage.create_new_trial(study_id)
    storages = [storage, storage, SqlStorage(database_url), SqlStorage(database_url)]

    def change(name: int) -> None:
        for i in range(10):
            storages[name].set_trial_user_attr(trial_id, f"{name}-{i}", i)
            storages[name].set_trial_intermediate_value(trial_id, 100 * name + i, i)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(4)))
    for reader in (storage, SqlStorage(database_url)):
        trial = reader.get_trial(trial_id)
        assert trial.user_attrs == {f"{name}-{i}": i for name in range(4) for i in range(10)}
        assert list(trial.intermediate_values) == [100 * n + i for n in range(4) for i in range(10)]


def test_what_this_process_wrote_is_what_another_reads(
    storage: SqlStorage, database_url: str
) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    storage.get_all_trials(study_id)
    trial_id = storage.create_new_trial(study_id)
    storage.set_trial_param(trial_id, "lr", 0.01, LR)
    storage.set_trial_param(trial_id, "kind", 1, CategoricalDistribution(("a", None)))
    for step, value in ((3, 0.1), (1, math.inf), (2, math.nan), (3, 0.3)):
        storage.set_trial_intermediate_value(trial_id, step, value)
    storage.set_trial_system_attr(trial_id, "deep", {"x": [1, -math.inf]})
    storage.create_new_trial(study_id, storage.get_trial(trial_id))
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [math.inf])
    mine = storage.get_all_trials(study_id)
    assert repr(mine) == repr(SqlStorage(database_url).get_all_trials(study_id))
    assert mine[0].values == [math.inf]


def test_incompatible_distributions_are_refused_across_processes(
    storage: SqlStorage, database_url: str
) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    storage.set_trial_param(storage.create_new_trial(study_id), "lr", 0.01, LR)
    other = SqlStorage(database_url)
    with pytest.raises(ValueError, match="kind"):
        other.set_trial_param(
            other.create_new_trial(study_id), "lr", 0, CategoricalDistribution(("a", "b"))
        )


def test_a_template_of_another_distribution_is_refused_across_processes(
    storage: SqlStorage, database_url: str
) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    storage.set_trial_param(storage.create_new_trial(study_id), "lr", 0.01, LR)
    other = SqlStorage(database_url)
    for distribution in (FloatDistribution(1e-5, 1e-1), CategoricalDistribution((0.01, 0.1))):
        template = create_trial(value=1.0, params={"lr": 0.01}, distributions={"lr": distribution})
        with pytest.raises(ValueError, match=r"log configuration|distribution kind"):
            other.create_new_trial(study_id, template)
    assert len(storage.get_all_trials(study_id)) == 1
    wider = FloatDistribution(1e-9, 1e1, log=True)
    other.create_new_trial(
        study_id, create_trial(value=1.0, params={"lr": 1e-8}, distributions={"lr": wider})
    )
    assert len(storage.get_all_trials(study_id)) == 2


def test_a_waiting_trial_is_taken_once(storage: SqlStorage, database_url: str) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    waiting = [
        storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING)) for _ in range(8)
    ]
    storages = [SqlStorage(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        taken = list(
            pool.map(
                lambda storage: [
                    storage.set_trial_state_values(trial_id, TrialState.RUNNING)
                    for trial_id in waiting
                ],
                storages,
            )
        )
    assert [sum(column) for column in zip(*taken, strict=True)] == [1] * 8


def test_numbers_stay_whole_under_concurrency(storage: SqlStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: storage.create_new_trial(study_id), range(40)))
    trials = storage.get_all_trials(study_id)
    assert [trial.number for trial in trials] == list(range(40))
    assert {trial._trial_id for trial in trials} == set(ids)


def test_a_reader_beside_writers_misses_nothing(storage: SqlStorage, database_url: str) -> None:
    """The revision is taken under the study's lock, so a higher one is never seen first."""
    reader = SqlStorage(database_url)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])

    def run(_: int) -> None:
        for _ in range(10):
            trial_id = storage.create_new_trial(study_id)
            storage.set_trial_intermediate_value(trial_id, 0, 0.5)
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(run, n) for n in range(4)]
        while not all(future.done() for future in writing):
            reader.get_all_trials(study_id, deepcopy=False)
    for future in writing:
        future.result()
    trials = reader.get_all_trials(study_id)
    assert len(trials) == 40
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert all(trial.intermediate_values == {0: 0.5} for trial in trials)


def test_what_is_handed_out_may_be_changed(storage: SqlStorage) -> None:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    trial_id = storage.create_new_trial(study_id, create_trial(state=TrialState.RUNNING))
    storage.set_trial_user_attr(trial_id, "list", [1, {"deep": 2}])
    trial = storage.get_all_trials(study_id)[0]
    trial.user_attrs["list"][1]["deep"] = 3
    trial.intermediate_values[1] = 2.0
    trial.distributions["x"] = LR
    again = storage.get_all_trials(study_id)[0]
    assert again.user_attrs == {"list": [1, {"deep": 2}]}
    assert again.intermediate_values == {}
    assert again.distributions == {}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
@example({frozen.FLOAT_KEY: "nan"})
@example([{frozen.FLOAT_KEY: {frozen.FLOAT_KEY: [math.inf, "x"]}}])
@settings(deadline=None, derandomize=True)
def test_any_json_survives_encoding(value: object) -> None:
    stored = json.loads(json.dumps(frozen.encoded(value), allow_nan=False))
    assert repr(frozen.decoded(stored)) == repr(value)


def test_a_study_of_the_service_names_its_objective(storage: SqlStorage) -> None:
    study_id = serve(storage.database)
    assert storage.get_study_system_attrs(study_id) == {"study:metric_names": ["val_loss"]}
    assert storage.get_all_studies()[0].system_attrs == {"study:metric_names": ["val_loss"]}


def test_a_number_that_is_not_finite_is_found_among_the_metrics(storage: SqlStorage) -> None:
    study_id = serve(storage.database)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, 0)
    with storage.database.write() as session:
        for step, loss in enumerate([0.5, math.nan, math.inf, -math.inf]):
            session.add(
                Measurement(
                    trial_id=trial_id,
                    attempt=1,
                    step=step,
                    value=loss if math.isfinite(loss) else None,
                    metrics={"val_loss": loss, "other": 1.0},
                    created_at=NOW,
                )
            )
    curve = storage.get_trial(trial_id).intermediate_values
    assert repr(curve) == repr({0: 0.5, 1: math.nan, 2: math.inf, 3: -math.inf})


def test_an_attempt_replaces_the_steps_it_did_again(storage: SqlStorage) -> None:
    study_id = serve(storage.database, attempt=2)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, 0)
    with storage.database.write() as session:
        for attempt, steps in ((1, (1, 2, 3, 4)), (2, (3,))):
            for step in steps:
                session.add(
                    Measurement(
                        trial_id=trial_id,
                        attempt=attempt,
                        step=step,
                        value=attempt * 10.0 + step,
                        created_at=NOW,
                    )
                )
    assert storage.get_trial(trial_id).intermediate_values == {1: 11.0, 2: 12.0, 3: 23.0}
    assert storage.get_all_trials(study_id)[0].intermediate_values == {1: 11.0, 2: 12.0, 3: 23.0}


def test_a_later_attempt_replaces_what_earlier_ones_reported(storage: SqlStorage) -> None:
    study_id = serve(storage.database)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, 0)
    storage.get_all_trials(study_id)
    for step in (1, 2, 3):
        storage.set_trial_intermediate_value(trial_id, step, float(step))
    with storage.database.write() as session:
        session.get_one(Trial, trial_id).attempt = 2
        study = session.get_one(Study, study_id)
        study.revision += 1
        session.get_one(Trial, trial_id).revision = study.revision
    storage.set_trial_intermediate_value(trial_id, 2, 20.0)
    storage.set_trial_intermediate_value(trial_id, 3, 30.0)
    assert storage.get_trial(trial_id).intermediate_values == {1: 1.0, 2: 20.0, 3: 30.0}


def test_ending_a_trial_ends_its_lease(storage: SqlStorage) -> None:
    study_id = serve(storage.database, lease_token="t", lease_expires_at=NOW)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, 0)
    storage.set_trial_state_values(trial_id, TrialState.FAIL)
    with storage.database.session() as session:
        row = session.get_one(Trial, trial_id)
        assert (row.state, row.lease_token, row.lease_expires_at) == ("fail", None, None)
        assert row.finished_at is not None


def test_constraints_reach_optuna(storage: SqlStorage) -> None:
    study_id = serve(storage.database, trials=2, constraint=0.25, state="complete", values=[1.0])
    trial = storage.get_all_trials(study_id)[1]
    assert trial.system_attrs == {"constraints": [0.25]}
    assert trial.datetime_start == NOW.astimezone().replace(tzinfo=None)


def test_a_study_made_through_optuna_is_ours_too(storage: SqlStorage) -> None:
    study = optuna.create_study(storage=storage, study_name="theirs", direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("lr", 1e-4, 1e-1, log=True), n_trials=3)
    with storage.database.session() as session:
        row = session.scalars(select(Study)).one()
        assert (row.name, row.spec, row.directions) == ("theirs", {}, ["maximize"])
        trials = session.scalars(select(Trial).order_by(Trial.number)).all()
        assert [trial.origin for trial in trials] == ["optuna"] * 3
        assert [trial.values for trial in trials] == [[trial.params["lr"]] for trial in trials]
        assert json_to_distribution(trials[0].distributions["lr"]) == LR


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.RandomSampler(seed=0),
        optuna.samplers.TPESampler(seed=0, n_startup_trials=4),
        optuna.samplers.NSGAIISampler(seed=0, population_size=4),
        optuna.samplers.CmaEsSampler(seed=0, n_startup_trials=2),
        optuna.samplers.GridSampler({"x": [0.0, 0.5, 1.0], "kind": ["a", "b"]}, seed=0),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_optunas_samplers_and_pruners_choose_as_they_do_in_memory(
    storage: SqlStorage, sampler: optuna.samplers.BaseSampler
) -> None:
    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["a", "b"])
        x = trial.suggest_float("x", 0.0, 1.0)
        for step in range(4):
            trial.report(x + (kind == "a") - step / 10, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    outcomes = []
    for place in (storage, optuna.storages.InMemoryStorage()):
        study = optuna.create_study(
            storage=place,
            sampler=copy.deepcopy(sampler),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
        )
        study.optimize(objective, n_trials=10)
        outcomes.append([(t.params, t.state, t.values) for t in study.trials])
    assert outcomes[0] == outcomes[1]
