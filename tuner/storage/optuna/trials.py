"""Optuna's calls about trials.

A change goes by what is known of the trial and is written if that still holds: one statement on
PostgreSQL. What was written is known from then on, so it is not read back.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from tuner.errors import Conflict, Unavailable
from tuner.spec import StudySpec, resolve
from tuner.storage import studies
from tuner.storage.engine import Database
from tuner.storage.models import Trial
from tuner.storage.optuna import changes, frozen
from tuner.storage.optuna.frozen import Stored
from tuner.storage.optuna.history import History

TRIES = 100
"""Each one that fails, another process has changed the very same trial in between."""

FIXED_KEY = "fixed_params"
"""The system attribute in which Optuna keeps the params of a trial that it enqueued."""

Columns = dict[str, Any]


class TrialCalls(BaseStorage):
    """The part of :class:`tuner.storage.SqlStorage` that is about trials."""

    database: Database
    _history: History

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See the base class."""
        now = datetime.now(UTC)
        curve: dict[int, float] = {}
        columns: Columns = {"state": "running", "started_at": now}
        if template_trial is not None:
            for name, distribution in template_trial.distributions.items():
                self._require_compatible(study_id, name, distribution)
            curve = template_trial.intermediate_values
            columns = {
                "state": template_trial.state.name.lower(),
                "params": frozen.encoded(template_trial.params),
                "distributions": frozen.distributions_to(template_trial.distributions),
                "values": frozen.values_to(template_trial.values),
                "user_attrs": frozen.encoded(template_trial.user_attrs),
                "system_attrs": frozen.encoded(template_trial.system_attrs),
                "started_at": frozen.utc(template_trial.datetime_start),
                "finished_at": frozen.utc(template_trial.datetime_complete),
            }
            fixed = template_trial.system_attrs.get(FIXED_KEY)
            if template_trial.state == TrialState.WAITING and fixed is not None:
                columns |= self._enqueued(study_id, fixed)
        stored = changes.create(self.database, study_id, columns, curve, now)
        if stored is None:
            raise KeyError(f"there is no study {study_id}")
        self._history.wrote(study_id, stored, curve)
        return stored.id

    def _enqueued(self, study_id: int, fixed: Mapping[str, Any]) -> Columns:
        """What a trial that Optuna enqueues has besides in a study of the service.

        Optuna gives it its params when it takes it itself; here workers may take it.

        Raises:
            InvalidInput: It is no point of the study's space.
            Conflict: The study is over, or its budget of trials has no room.
        """
        with self.database.session() as session:
            study = studies.find(session, study_id)
        if study is None or not study.spec:
            return {}
        if study.over or study.state == "stopping":
            raise Conflict(f"cannot enqueue trials in a study that is {study.state}")
        checked = resolve(StudySpec.parse(study.spec))
        if study.lr_range:
            checked = checked.ranged(study.lr_range["low"], study.lr_range["high"])
        budget = checked.budget.trials
        if budget is not None and study.next_number >= budget:
            raise Conflict(f"the study's budget of {budget} trials has room for 0 more")
        params = checked.space.check(fixed)
        return {
            "params": params,
            "distributions": {name: checked.distributions[name] for name in params},
            "seed": checked.spec.seed,
            "origin": "enqueued",
        }

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """See the base class."""
        study_id, _ = self._history.place(trial_id)
        value = frozen.encoded(distribution.to_external_repr(param_value_internal))
        written = frozen.distributions_to({param_name: distribution})

        def change(stored: Stored) -> Columns:
            self._require_compatible(study_id, param_name, distribution)
            return {
                "params": stored.params | {param_name: value},
                "distributions": frozen.written(stored.distributions) | written,
            }

        self._change(trial_id, change)

    def _require_compatible(self, study_id: int, name: str, distribution: BaseDistribution) -> None:
        """Raises ValueError where a study knows the parameter as one of another kind."""
        known = self._history.distribution(study_id, name)
        if known is not None:
            check_distribution_compatibility(known, distribution)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See the base class. A worker's lease on a trial that ends here ends with it."""
        now = datetime.now(UTC)

        def change(stored: Stored) -> Columns | None:
            if state == TrialState.RUNNING and stored.state != "waiting":
                return None
            columns: Columns = {"state": state.name.lower()}
            if values is not None or state == TrialState.FAIL:
                columns["values"] = frozen.values_to(values)
            if state == TrialState.RUNNING:
                columns["started_at"] = now
            else:
                columns |= {"lease_token": None, "lease_expires_at": None, "paused": False}
            if state.is_finished():
                columns["finished_at"] = now
            return columns

        return self._change(trial_id, change)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See the base class."""
        self._change(trial_id, lambda _: {}, (step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See the base class."""
        attr = {key: frozen.encoded(value)}
        self._change(trial_id, lambda stored: {"user_attrs": stored.user_attrs | attr})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See the base class."""
        attr = {key: frozen.encoded(value)}
        self._change(trial_id, lambda stored: {"system_attrs": stored.system_attrs | attr})

    def _change(
        self,
        trial_id: int,
        change: Callable[[Stored], Columns | None],
        point: tuple[int, float] | None = None,
    ) -> bool:
        """Changes an unfinished trial, in a transaction of its own.

        Args:
            trial_id: The trial.
            change: From what is stored to the columns to write; None: leave it as it is.
            point: Step and value of a new measurement.

        Returns:
            Whether it was changed.
        """
        study_id, number = self._history.place(trial_id)
        now = datetime.now(UTC)
        for attempt in range(TRIES):
            stored = self._history.stored(trial_id, anew=attempt > 0)
            if stored is None:
                raise UpdateFinishedTrialError(
                    f"trial {number} has already finished and cannot be changed"
                )
            columns = change(stored)
            if columns is None:
                return False
            new = changes.change(self.database, study_id, stored, columns, point, now)
            if new is not None:
                self._history.wrote(study_id, new, dict([point] if point else ()))
                return True
        raise Unavailable(f"others keep changing trial {number}")

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See the base class."""
        return frozen.copied(self._history.trial(trial_id))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """See the base class."""
        trials = self._history.trials(study_id, states)
        return [frozen.copied(trial) for trial in trials] if deepcopy else trials

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """See the base class."""
        with self.database.session() as session:
            trial_id = session.scalar(
                select(Trial.id).where(Trial.study_id == study_id, Trial.number == trial_number)
            )
        if trial_id is None:
            raise KeyError(f"there is no trial {trial_number} in study {study_id}")
        return trial_id
