"""What is counted over studies' trials: for the queue, for lists, for the end of a study."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, and_, case, func, or_, select
from sqlalchemy.orm import Session

from tuner.storage.measurements import NOT_NUMBERS
from tuner.storage.models import Probe, Study, Trial
from tuner.storage.prepared import Executing, Prepared
from tuner.storage.studies import OPEN_STATES, StudyRow

_studies = cast("Table", Study.__table__)
_trials = cast("Table", Trial.__table__)
_probes = cast("Table", Probe.__table__)


@dataclass(frozen=True)
class Counts:
    """A study's trials by what becomes of them; ``running`` excludes those set aside."""

    waiting: int = 0
    running: int = 0
    paused: int = 0
    complete: int = 0
    pruned: int = 0
    fail: int = 0

    @property
    def finished(self) -> int:
        """Trials that never change again."""
        return self.complete + self.pruned + self.fail


@dataclass(frozen=True)
class Queued:
    """A study that may want workers, as the order of service sees it."""

    id: int
    priority: int
    max_concurrent: int | None
    revision: int
    device_seconds: float
    active_seconds: float
    leased: int
    ready: int
    task: str
    probe: str | None = None
    """The state of its range test, if it has one."""


def _either(column: ColumnElement[str], values: Collection[str]) -> ColumnElement[bool]:
    return or_(*[column == value for value in values])


_leased = func.count(_trials.c.id).filter(
    _trials.c.state == "running", _trials.c.lease_token.is_not(None)
)
_ready = func.count(_trials.c.id).filter(
    _trials.c.state == "waiting", _trials.c.until > _trials.c.step
)
_QUEUED = Prepared(
    select(
        _studies.c.active_since,
        _studies.c.id,
        _studies.c.priority,
        _studies.c.max_concurrent,
        _studies.c.revision,
        _studies.c.device_seconds,
        _studies.c.active_seconds,
        _leased.label("leased"),
        _ready.label("ready"),
        _studies.c.spec[("task", "name")].as_string().label("task"),
        _probes.c.state.label("probe"),
    )
    .outerjoin(_probes, _probes.c.study_id == _studies.c.id)
    .outerjoin(
        _trials,
        and_(
            _trials.c.study_id == _studies.c.id,
            _either(_trials.c.state, ("waiting", "running")),
        ),
    )
    .where(_either(_studies.c.state, OPEN_STATES))
    .group_by(_studies.c.id, _probes.c.state)
    .order_by(_studies.c.id)
)


def queued(connection: Executing, tasks: Collection[str], now: datetime) -> list[Queued]:
    """The open studies whose task is among ``tasks``, with what they hold and what waits."""
    found = []
    for active_since, *row in _QUEUED.rows(connection, {}):
        study = Queued(*row)
        if study.task in tasks:
            if active_since is not None:
                running = max((now - active_since).total_seconds(), 0.0)  # or a clock was set back
                study = replace(study, active_seconds=study.active_seconds + running)
            found.append(study)
    return found


def cancelled(session: Session, study_id: int) -> int:
    """How many of its trials ended before they began."""
    return (
        session.scalar(
            select(func.count())
            .select_from(Trial)
            .where(Trial.study_id == study_id, Trial.state == "fail", Trial.reason == "cancelled")
        )
        or 0
    )


def counts(session: Session, study_ids: Collection[int]) -> dict[int, Counts]:
    """The trials of each study by state; every id asked for is in the answer."""
    aside = func.sum(case((Trial.paused, 1), else_=0))
    found: dict[int, dict[str, int]] = {i: {} for i in study_ids}
    for study_id, state, n, paused in session.execute(
        select(Trial.study_id, Trial.state, func.count(), aside)
        .where(Trial.study_id.in_(study_ids))
        .group_by(Trial.study_id, Trial.state)
    ):
        found[study_id][state] = n - (paused if state == "running" else 0)
        if state == "running":
            found[study_id]["paused"] = paused
    return {i: Counts(**by_state) for i, by_state in found.items()}


def steps(session: Session, study_ids: Collection[int]) -> dict[int, int]:
    """Evaluation periods that each study's trials have behind them."""
    rows = session.execute(
        select(Trial.study_id, func.sum(Trial.step))
        .where(Trial.study_id.in_(study_ids))
        .group_by(Trial.study_id)
    )
    return {study_id: int(n or 0) for study_id, n in rows}


def ranked(direction: str) -> list[ColumnElement[Any]]:
    """The order of trials by their first objective, the best first, ties by number."""
    value = Trial.values[0].as_float()
    return [value.desc() if direction == "maximize" else value, Trial.number]


def comparable() -> list[ColumnElement[bool]]:
    """Complete trials with a finite first objective that keep the study's constraint."""
    return [
        Trial.state == "complete",
        Trial.values.is_not(None),
        Trial.values[0].as_string().not_in(NOT_NUMBERS),
        or_(Trial.constraint.is_(None), Trial.constraint <= 0),
    ]


def best_ids(session: Session, studies: Iterable[StudyRow]) -> dict[int, int]:
    """The id of each study's best trial, in one statement for each direction."""
    out: dict[int, int] = {}
    by_direction: dict[str, list[int]] = {}
    for study in studies:
        if len(study.directions) == 1:
            by_direction.setdefault(study.directions[0], []).append(study.id)
    for direction, ids in by_direction.items():
        place = func.row_number().over(partition_by=Trial.study_id, order_by=ranked(direction))
        inner = (
            select(Trial.id, Trial.study_id, place.label("place"))
            .where(Trial.study_id.in_(ids), *comparable())
            .subquery()
        )
        for row in session.execute(select(inner).where(inner.c.place == 1)):
            out[row.study_id] = row.id
    return out
