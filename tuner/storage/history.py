"""What one process has read of each study's trials, so that none is read twice.

Each change of a trial takes the next revision of its study, under the lock of the study's row. So
revisions become visible in order, and "what came after the last one I saw" misses nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table, bindparam, select
from sqlalchemy.orm import Session

from tuner.storage import frozen
from tuner.storage.engine import Database
from tuner.storage.models import Measurement, Study, Trial

_studies = cast("Table", Study.__table__)
_trials = cast("Table", Trial.__table__)
_points = cast("Table", Measurement.__table__)
# Built once: these run at nearly every call of Optuna's, and building costs more than running.
_STUDY = select(_studies.c.revision, _studies.c.spec, _studies.c.directions).where(
    _studies.c.id == bindparam("study_id")
)
_REVISION = select(_studies.c.revision).where(_studies.c.id == bindparam("study_id"))
_CHANGED = (
    select(*frozen.TRIAL_COLUMNS)
    .where(_trials.c.study_id == bindparam("study_id"), _trials.c.revision > bindparam("after"))
    .order_by(_trials.c.number)
)
_CURVE = (
    select(*frozen.CURVE_COLUMNS)
    .where(_points.c.trial_id == bindparam("trial_id"))
    .order_by(*frozen.CURVE_ORDER)
)
_CURVES = (
    select(*frozen.CURVE_COLUMNS)
    .join(_trials, _trials.c.id == _points.c.trial_id)
    .where(_trials.c.study_id == bindparam("study_id"), _trials.c.revision > bindparam("after"))
    .order_by(*frozen.CURVE_ORDER)
)


@dataclass
class Known:
    """What has been read of one study, up to a revision."""

    metric: str
    directions: list[StudyDirection]
    revision: int = -1
    trials: dict[int, FrozenTrial] = field(default_factory=dict)
    """By number, in order. Trials are replaced, never changed: callers may hold them."""
    unfinished: dict[int, FrozenTrial] = field(default_factory=dict)
    """Those that may still change, for the many questions that are only about them."""
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    """The first one that each parameter had."""


class History:
    """Trials of any number of studies; threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.RLock()
        self._studies: dict[int, Known] = {}
        self._places: dict[int, tuple[int, int]] = {}

    def trials(
        self, study_id: int, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Trials as of now, by number; they belong to the cache, so copy before changing.

        Args:
            study_id: Whose trials.
            states: Those in these states; None: all.

        Raises:
            KeyError: There is no such study.
        """
        with self._lock:
            known = self.refreshed(study_id)
            if states is None:
                return list(known.trials.values())
            ended = any(state in states for state in TrialState if state.is_finished())
            among = known.trials if ended else known.unfinished
            return [trial for trial in among.values() if trial.state in states]

    def directions(self, study_id: int) -> list[StudyDirection] | None:
        """The study's directions where they are known already; they never change."""
        with self._lock:
            known = self._studies.get(study_id)
            return None if known is None else list(known.directions)

    def trial(self, trial_id: int) -> FrozenTrial:
        """One trial as of now. It alone is read where its study has not been read yet.

        Raises:
            KeyError: There is no such trial.
        """
        study_id, number = self.place(trial_id)
        with self._lock:
            if study_id in self._studies:
                try:
                    return self.refreshed(study_id).trials[number]
                except KeyError:
                    raise KeyError(f"there is no trial {trial_id}") from None
        with self._database.session() as session:
            row = session.execute(select(*frozen.TRIAL_COLUMNS).where(Trial.id == trial_id)).first()
            spec = session.scalar(select(Study.spec).where(Study.id == study_id))
            if row is None or spec is None:
                raise KeyError(f"there is no trial {trial_id}")
            points = session.connection().execute(_CURVE, {"trial_id": trial_id})
            curve = frozen.curves(points, objective(spec))
        return frozen.frozen(row, curve.get(trial_id, {}))

    def place(self, trial_id: int) -> tuple[int, int]:
        """The study and the number of a trial.

        Raises:
            KeyError: There is no such trial.
        """
        with self._lock:
            place = self._places.get(trial_id)
        if place is None:
            with self._database.session() as session:
                row = session.execute(
                    select(Trial.study_id, Trial.number).where(Trial.id == trial_id)
                ).first()
            if row is None:
                raise KeyError(f"there is no trial {trial_id}")
            place = (row.study_id, row.number)
            self.remember(trial_id, *place)
        return place

    def remember(self, trial_id: int, study_id: int, number: int) -> None:
        """Notes where a new trial belongs."""
        with self._lock:
            self._places[trial_id] = (study_id, number)

    def forget(self, study_id: int) -> None:
        """Drops what is known of a study that has gone."""
        with self._lock:
            known = self._studies.pop(study_id, None)
            for trial in known.trials.values() if known else ():
                self._places.pop(trial._trial_id, None)

    def refreshed(self, study_id: int) -> Known:
        """What is known of a study, after asking what has changed since.

        Raises:
            KeyError: There is no such study.
        """
        with self._lock, self._database.session() as session:
            known = self._studies.get(study_id)
            if known is None:
                row = session.connection().execute(_STUDY, {"study_id": study_id}).first()
                if row is None:
                    raise KeyError(f"there is no study {study_id}")
                revision = row.revision
                known = Known(objective(row.spec), directions(row.directions))
                self._studies[study_id] = known
            else:
                found = session.connection().scalar(_REVISION, {"study_id": study_id})
                if found is None:
                    self.forget(study_id)
                    raise KeyError(f"there is no study {study_id}")
                revision = found
            if revision > known.revision:
                self._read_changes(session, study_id, known)
                known.revision = max(known.revision, revision)
            return known

    def _read_changes(self, session: Session, study_id: int, known: Known) -> None:
        connection = session.connection()
        given = {"study_id": study_id, "after": known.revision}
        rows = connection.execute(_CHANGED, given).all()
        if len(rows) == 1:
            points = connection.execute(_CURVE, {"trial_id": rows[0].id})
        else:
            points = connection.execute(_CURVES, given)
        curves = frozen.curves(points, known.metric)
        last = next(reversed(known.trials), -1)
        late = any(row.number < last and row.number not in known.trials for row in rows)
        for row in rows:
            trial = frozen.frozen(row, curves.get(row.id, {}))
            known.trials[row.number] = trial
            known.unfinished.pop(row.number, None)
            if not trial.state.is_finished():
                known.unfinished[row.number] = trial
            self._places[row.id] = (study_id, row.number)
            known.revision = max(known.revision, row.revision)
            for name, distribution in trial.distributions.items():
                known.distributions.setdefault(name, distribution)
        if late:
            known.trials = dict(sorted(known.trials.items()))
        known.unfinished = dict(sorted(known.unfinished.items()))


def objective(spec: dict[str, Any]) -> str:
    """The first objective's metric; Optuna's own studies have no spec."""
    return next(iter(metrics(spec)), frozen.VALUE_METRIC)


def metrics(spec: dict[str, Any]) -> list[str]:
    """The metrics of all objectives; none for a study that Optuna made."""
    stated = spec.get("objective") or []
    return [item["metric"] for item in (stated if isinstance(stated, list) else [stated])]


def directions(stored: list[str]) -> list[StudyDirection]:
    """Optuna's directions from ours."""
    return [StudyDirection[direction.upper()] for direction in stored]
