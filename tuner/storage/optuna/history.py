"""What one process has read of each study's trials, so that none is read twice.

Each change of a trial takes the next revision of its study, under the lock of the study's row. So
revisions become visible in order, and "what came after the last one I saw" misses nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table, bindparam, select

from tuner.storage.engine import Database
from tuner.storage.models import FINISHED_TRIAL_STATES, Measurement, Study, Trial
from tuner.storage.optuna import frozen
from tuner.storage.optuna.frozen import Stored
from tuner.storage.prepared import Executing, Prepared

_studies = cast("Table", Study.__table__)
_trials = cast("Table", Trial.__table__)
_points = cast("Table", Measurement.__table__)
_STUDY = Prepared(
    select(_studies.c.revision, _studies.c.spec, _studies.c.directions).where(
        _studies.c.id == bindparam("of_study")
    )
)
_REVISION = Prepared(select(_studies.c.revision).where(_studies.c.id == bindparam("of_study")))
_TRIAL = Prepared(select(*frozen.TRIAL_COLUMNS).where(_trials.c.id == bindparam("trial_id")))
_CHANGED = Prepared(
    select(*frozen.TRIAL_COLUMNS)
    .where(_trials.c.study_id == bindparam("of_study"), _trials.c.revision > bindparam("after"))
    .order_by(_trials.c.number)
)
_CURVE = Prepared(
    select(*frozen.CURVE_COLUMNS)
    .where(_points.c.trial_id == bindparam("trial_id"))
    .order_by(*frozen.CURVE_ORDER)
)
_CURVES = Prepared(
    select(*frozen.CURVE_COLUMNS)
    .join(_trials, _trials.c.id == _points.c.trial_id)
    .where(_trials.c.study_id == bindparam("of_study"), _trials.c.revision > bindparam("after"))
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
    stored: dict[int, Stored] = field(default_factory=dict)
    """The same as they are stored, for changes of them."""
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    """The first one that each parameter had."""

    def put(self, stored: Stored, curve: Mapping[int, float]) -> None:
        """Takes in a trial as it is now."""
        trial = frozen.frozen(stored, curve)
        number = stored.number
        late = number not in self.trials and number < next(reversed(self.trials), -1)
        self.trials[number] = trial
        if trial.state.is_finished():
            self.unfinished.pop(number, None)
            self.stored.pop(number, None)
        else:
            self.unfinished[number], self.stored[number] = trial, stored
        if late:
            self.trials = dict(sorted(self.trials.items()))
            self.unfinished = dict(sorted(self.unfinished.items()))
        for name, distribution in trial.distributions.items():
            self.distributions.setdefault(name, distribution)


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
            connection = session.connection()
            rows = _TRIAL.rows(connection, {"trial_id": trial_id})
            study = _STUDY.rows(connection, {"of_study": study_id})
            if not rows or not study:
                raise KeyError(f"there is no trial {trial_id}")
            points = _CURVE.rows(connection, {"trial_id": trial_id})
        curve = frozen.curves(points, objective(study[0][1]))
        return frozen.frozen(Stored(*rows[0]), curve.get(trial_id, {}))

    def stored(self, trial_id: int, *, anew: bool) -> Stored | None:
        """A trial that may still change, as it is known or, ``anew``, as of now; None: it ended.

        Raises:
            KeyError: There is no such trial.
        """
        study_id, number = self.place(trial_id)
        with self._lock:
            known = self._studies.get(study_id)
            if known is not None:
                if anew or number not in known.trials:
                    known = self.refreshed(study_id)
                if number not in known.trials:
                    raise KeyError(f"there is no trial {trial_id}")
                return known.stored.get(number)
        with self._database.peek() as connection:
            rows = _TRIAL.rows(connection, {"trial_id": trial_id})
        if not rows:
            raise KeyError(f"there is no trial {trial_id}")
        found = Stored(*rows[0])
        return None if found.state in FINISHED_TRIAL_STATES else found

    def wrote(self, study_id: int, stored: Stored, points: Mapping[int, float]) -> None:
        """Notes what this process has just written of a trial."""
        number = stored.number
        with self._lock:
            self._places[stored.id] = (study_id, number)
            known = self._studies.get(study_id)
            if known is None or (points and stored.attempt > 1):
                return  # a later attempt's point may replace many, so the curve is read again
            before = known.trials.get(number)
            curve = {} if before is None else before.intermediate_values
            if points:
                curve = dict(sorted({**curve, **points}.items()))
            known.put(stored, curve)
            if stored.revision == known.revision + 1:
                known.revision = stored.revision

    def distribution(self, study_id: int, name: str) -> BaseDistribution | None:
        """The first one that a parameter of a study had; it never changes."""
        with self._lock:
            known = self._studies.get(study_id)
            if known is not None and name in known.distributions:
                return known.distributions[name]
            return self.refreshed(study_id).distributions.get(name)

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
            with self._lock:
                self._places[trial_id] = place
        return place

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
        with self._lock:
            known = self._studies.get(study_id)
            if known is not None:
                with self._database.peek() as connection:
                    found = _REVISION.rows(connection, {"of_study": study_id})
                if found and found[0][0] == known.revision:
                    return known
            with self._database.session() as session:
                return self._read(session.connection(), study_id, known)

    def _read(self, connection: Executing, study_id: int, known: Known | None) -> Known:
        study = _STUDY.rows(connection, {"of_study": study_id})
        if not study:
            self.forget(study_id)
            raise KeyError(f"there is no study {study_id}")
        revision, spec, stated = study[0]
        if known is None:
            known = self._studies[study_id] = Known(objective(spec), directions(stated))
        given = {"of_study": study_id, "after": known.revision}
        changed = [Stored(*row) for row in _CHANGED.rows(connection, given)]
        if len(changed) == 1:
            points = _CURVE.rows(connection, {"trial_id": changed[0].id})
        else:
            points = _CURVES.rows(connection, given) if changed else []
        curves = frozen.curves(points, known.metric)
        for stored in changed:
            known.put(stored, curves.get(stored.id, {}))
            self._places[stored.id] = (study_id, stored.number)
            revision = max(revision, stored.revision)
        known.revision = max(known.revision, revision)
        return known


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
