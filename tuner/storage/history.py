"""What one process has read of each study's trials, so that none is read twice.

Each change of a trial takes the next revision of its study, under the lock of the study's row. So
revisions become visible in order, and "what came after the last one I saw" misses nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy import select
from sqlalchemy.orm import Session

from tuner.storage import frozen
from tuner.storage.engine import Database
from tuner.storage.models import Measurement, Study, Trial


@dataclass
class Known:
    """What has been read of one study, up to a revision."""

    metric: str
    directions: list[StudyDirection]
    revision: int = -1
    trials: dict[int, FrozenTrial] = field(default_factory=dict)
    """By number, in order. Trials are replaced, never changed: callers may hold them."""
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    """The first one that each parameter had."""


class History:
    """Trials of any number of studies; threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.RLock()
        self._studies: dict[int, Known] = {}
        self._places: dict[int, tuple[int, int]] = {}

    def trials(self, study_id: int) -> list[FrozenTrial]:
        """All trials as of now, by number; they belong to the cache, so copy before changing.

        Raises:
            KeyError: There is no such study.
        """
        with self._lock:
            return list(self.refreshed(study_id).trials.values())

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
            curve = self._curves(session, objective(spec), trial_id=trial_id)
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
                row = session.execute(
                    select(Study.revision, Study.spec, Study.directions).where(Study.id == study_id)
                ).first()
                if row is None:
                    raise KeyError(f"there is no study {study_id}")
                revision = row.revision
                known = Known(objective(row.spec), directions(row.directions))
                self._studies[study_id] = known
            else:
                found = session.scalar(select(Study.revision).where(Study.id == study_id))
                if found is None:
                    self.forget(study_id)
                    raise KeyError(f"there is no study {study_id}")
                revision = found
            if revision > known.revision:
                self._read_changes(session, study_id, known)
                known.revision = max(known.revision, revision)
            return known

    def _read_changes(self, session: Session, study_id: int, known: Known) -> None:
        rows = session.execute(
            select(*frozen.TRIAL_COLUMNS)
            .where(Trial.study_id == study_id, Trial.revision > known.revision)
            .order_by(Trial.number)
        ).all()
        if len(rows) == 1:
            curves = self._curves(session, known.metric, trial_id=rows[0].id)
        else:
            curves = self._curves(session, known.metric, study_id=study_id, after=known.revision)
        last = max(known.trials, default=-1)
        for row in rows:
            trial = frozen.frozen(row, curves.get(row.id, {}))
            known.trials[row.number] = trial
            self._places[row.id] = (study_id, row.number)
            known.revision = max(known.revision, row.revision)
            for name, distribution in trial.distributions.items():
                known.distributions.setdefault(name, distribution)
        if any(row.number < last for row in rows) and list(known.trials) != sorted(known.trials):
            known.trials = dict(sorted(known.trials.items()))

    @staticmethod
    def _curves(
        session: Session,
        metric: str,
        *,
        trial_id: int | None = None,
        study_id: int | None = None,
        after: int = -1,
    ) -> dict[int, dict[int, float]]:
        statement = select(*frozen.CURVE_COLUMNS).order_by(*frozen.CURVE_ORDER)
        if trial_id is not None:
            statement = statement.where(Measurement.trial_id == trial_id)
        else:
            statement = statement.join(Trial, Trial.id == Measurement.trial_id).where(
                Trial.study_id == study_id, Trial.revision > after
            )
        return frozen.curves(session.execute(statement), metric)


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
