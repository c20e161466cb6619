"""The door for Optuna: a study of ours is an Optuna study.

``optuna.load_study(study_name=..., storage=SqlStorage(url))`` and everything built on it works:
figures, importances, optuna-dashboard. The other way round, a study made through Optuna is a row
here with an empty spec, which the server lists and shows but never runs.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from tuner.errors import Conflict
from tuner.storage import frozen, migrate
from tuner.storage.engine import Database
from tuner.storage.history import History, directions, metrics
from tuner.storage.models import FINISHED_TRIAL_STATES, Measurement, Study, Trial

NAME_PREFIX = "no-name-"
"""What Optuna calls a study that was given no name, before a UUID."""
METRIC_NAMES_KEY = "study:metric_names"
"""The system attribute from which Optuna's figures take the names of objectives."""


_studies = cast("Table", Study.__table__)
_trials = cast("Table", Trial.__table__)
# Built once, as in history.py.
_REVISE = (
    update(_studies)
    .where(_studies.c.id == bindparam("row_id"))
    .values(revision=_studies.c.revision + 1)
    .returning(_studies.c.revision)
)
_LOCK = (
    select(
        _trials.c.state,
        _trials.c.attempt,
        _trials.c.params,
        _trials.c.distributions,
        _trials.c.user_attrs,
        _trials.c.system_attrs,
    )
    .where(_trials.c.id == bindparam("row_id"))
    .with_for_update()
)
_CHANGE = update(_trials).where(_trials.c.id == bindparam("row_id"))


@dataclass
class _Change:
    """A trial that may still change: its row, locked, and the columns to write."""

    session: Session
    row: Any
    columns: dict[str, Any]


class SqlStorage(BaseStorage):
    """An Optuna storage over this package's tables; see ``optuna.storages.BaseStorage``.

    Trials are read once: afterwards one indexed query a call asks for those that changed.

    Args:
        url: As for :class:`tuner.storage.engine.Database`, or an open one to share.

    Raises:
        SchemaOutdated: The database needs ``tuner db upgrade``; a SQLite file is upgraded at once.
    """

    def __init__(self, url: str | Database) -> None:
        self.database = url if isinstance(url, Database) else Database(url)
        migrate.prepare(self.database)
        self._history = History(self.database)

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.database.url.render_as_string(hide_password=False)}

    def __setstate__(self, state: dict[str, str]) -> None:
        SqlStorage.__init__(self, state["url"])

    # Studies

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """See the base class."""
        name = f"{NAME_PREFIX}{uuid.uuid4()}" if study_name is None else study_name
        now = datetime.now(UTC)
        try:
            with self.database.write() as session:
                study = Study(
                    name=name,
                    state="running",
                    directions=[direction.name.lower() for direction in directions],
                    created_at=now,
                    started_at=now,
                )
                session.add(study)
                session.flush()
                return study.id
        except Conflict as error:
            raise DuplicatedStudyError(f"there is a study named {name!r} already") from error

    def delete_study(self, study_id: int) -> None:
        """See the base class."""
        with self.database.write() as session:
            gone = session.scalar(delete(Study).where(Study.id == study_id).returning(Study.id))
            if gone is None:
                raise _no_study(study_id)
        self._history.forget(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See the base class."""
        self._set_study_attr(Study.user_attrs, study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See the base class."""
        self._set_study_attr(Study.system_attrs, study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """See the base class."""
        with self.database.session() as session:
            study_id = session.scalar(select(Study.id).where(Study.name == study_name))
        if study_id is None:
            raise KeyError(f"there is no study named {study_name!r}")
        return study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        """See the base class."""
        return cast("str", self._study_column(Study.name, study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See the base class."""
        known = self._history.directions(study_id)
        return known or directions(self._study_column(Study.directions, study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See the base class."""
        return cast(
            "dict[str, Any]", frozen.decoded(self._study_column(Study.user_attrs, study_id))
        )

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See the base class."""
        with self.database.session() as session:
            row = session.execute(
                select(Study.system_attrs, Study.spec).where(Study.id == study_id)
            ).first()
        if row is None:
            raise _no_study(study_id)
        return _system_attrs(*row)

    def get_all_studies(self) -> list[FrozenStudy]:
        """See the base class."""
        with self.database.session() as session:
            rows = session.execute(
                select(
                    Study.id,
                    Study.name,
                    Study.directions,
                    Study.user_attrs,
                    Study.system_attrs,
                    Study.spec,
                ).order_by(Study.id)
            ).all()
        return [
            FrozenStudy(
                study_name=row.name,
                direction=None,
                directions=directions(row.directions),
                user_attrs=frozen.decoded(row.user_attrs),
                system_attrs=_system_attrs(row.system_attrs, row.spec),
                study_id=row.id,
            )
            for row in rows
        ]

    # Trials, written

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See the base class."""
        now = datetime.now(UTC)
        columns: dict[str, Any] = {"state": "running", "started_at": now}
        curve: dict[int, float] = {}
        if template_trial is not None:
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
        with self.database.write() as session:
            row = session.execute(
                update(Study)
                .where(Study.id == study_id)
                .values(next_number=Study.next_number + 1, revision=Study.revision + 1)
                .returning(Study.next_number, Study.revision)
            ).first()
            if row is None:
                raise _no_study(study_id)
            number = row.next_number - 1
            trial_id: int | None = session.scalar(
                insert(Trial)
                .values(
                    study_id=study_id,
                    number=number,
                    origin="optuna",
                    revision=row.revision,
                    created_at=now,
                    **columns,
                )
                .returning(Trial.id)
            )
            assert trial_id is not None
            if curve:
                session.execute(
                    insert(Measurement),
                    [
                        frozen.measured(trial_id, 1, step, value, now)
                        for step, value in curve.items()
                    ],
                )
        self._history.remember(trial_id, study_id, number)
        return trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """See the base class."""
        study_id, _ = self._history.place(trial_id)
        known = self._history.refreshed(study_id).distributions.get(param_name)
        with self._changing(trial_id) as change:
            if known is not None:
                check_distribution_compatibility(known, distribution)
            value = frozen.encoded(distribution.to_external_repr(param_value_internal))
            change.columns = {
                "params": change.row.params | {param_name: value},
                "distributions": change.row.distributions
                | frozen.distributions_to({param_name: distribution}),
            }

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See the base class. A worker's lease on a trial that ends here ends with it."""
        now = datetime.now(UTC)
        with self._changing(trial_id) as change:
            if state == TrialState.RUNNING and change.row.state != "waiting":
                return False
            change.columns["state"] = state.name.lower()
            if values is not None:
                change.columns["values"] = frozen.values_to(values)
            if state == TrialState.RUNNING:
                change.columns["started_at"] = now
            else:
                change.columns |= {"lease_token": None, "lease_expires_at": None, "paused": False}
            if state.is_finished():
                change.columns["finished_at"] = now
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See the base class."""
        dialect = sqlite if self.database.embedded else postgresql
        now = datetime.now(UTC)
        with self._changing(trial_id) as change:
            statement = dialect.insert(Measurement).values(
                frozen.measured(trial_id, change.row.attempt, step, intermediate_value, now)
            )
            change.session.execute(
                statement.on_conflict_do_update(
                    index_elements=[Measurement.trial_id, Measurement.attempt, Measurement.step],
                    set_={"value": statement.excluded.value, "metrics": statement.excluded.metrics},
                )
            )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See the base class."""
        with self._changing(trial_id) as change:
            attrs = change.row.user_attrs | {key: frozen.encoded(value)}
            change.columns["user_attrs"] = attrs

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See the base class."""
        with self._changing(trial_id) as change:
            attrs = change.row.system_attrs | {key: frozen.encoded(value)}
            change.columns["system_attrs"] = attrs

    # Trials, read

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

    # Inside

    @contextmanager
    def _changing(self, trial_id: int) -> Iterator[_Change]:
        """One transaction around a change of an unfinished trial, under a new revision.

        The study's row is locked first, as everywhere: writers that met in another order could
        wait for each other.
        """
        study_id, number = self._history.place(trial_id)
        with self.database.write() as session:
            connection = session.connection()
            revision = connection.scalar(_REVISE, {"row_id": study_id})
            row = connection.execute(_LOCK, {"row_id": trial_id}).first()
            if row is None:
                raise KeyError(f"there is no trial {trial_id}")
            if row.state in FINISHED_TRIAL_STATES:
                raise UpdateFinishedTrialError(
                    f"trial {number} has already finished and cannot be changed"
                )
            change = _Change(session, row, {})
            yield change
            session.execute(
                update(Trial)
                .where(Trial.id == trial_id)
                .values(revision=revision, **change.columns)
            )

    def _study_column(self, column: InstrumentedAttribute[Any], study_id: int) -> Any:
        with self.database.session() as session:
            row = session.execute(select(column).where(Study.id == study_id)).first()
        if row is None:
            raise _no_study(study_id)
        return row[0]

    def _set_study_attr(
        self, column: InstrumentedAttribute[dict[str, Any]], study_id: int, key: str, value: Any
    ) -> None:
        with self.database.write() as session:
            row = session.execute(
                select(column).where(Study.id == study_id).with_for_update()
            ).first()
            if row is None:
                raise _no_study(study_id)
            attrs = row[0] | {key: frozen.encoded(value)}
            session.execute(update(Study).where(Study.id == study_id).values({column: attrs}))


def _no_study(study_id: int) -> KeyError:
    return KeyError(f"there is no study {study_id}")


def _system_attrs(stored: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """The attributes Optuna stored, and the objectives' names for its figures."""
    attrs: dict[str, Any] = frozen.decoded(stored)
    names = metrics(spec)
    if names:
        attrs.setdefault(METRIC_NAMES_KEY, names)
    return attrs
