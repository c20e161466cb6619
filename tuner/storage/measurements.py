"""Measurements: curves written in one batch a report, read a study or a page of trials at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, Insert, Table, and_, bindparam, case, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tuner.storage.models import Measurement, Trial

NOT_NUMBERS = ("nan", "inf", "-inf")
_table = cast("Table", Measurement.__table__)


@dataclass(frozen=True)
class Point:
    """One evaluation of one attempt."""

    trial_id: int
    attempt: int
    step: int
    value: float | None
    samples: int | None
    seconds: float | None
    metrics: dict[str, Any]
    created_at: datetime


_INSERT: dict[str, Insert] = {
    "postgresql": postgresql.insert(_table).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(_table).on_conflict_do_nothing(),
}
# Built once: on the path of every report, building a statement costs more than running it.
_ATTEMPT_SECONDS = (
    select(_table.c.trial_id, func.max(_table.c.seconds))
    .join(Trial, and_(Trial.id == _table.c.trial_id, Trial.attempt == _table.c.attempt))
    .where(_table.c.trial_id.in_(bindparam("ids", expanding=True)))
    .group_by(_table.c.trial_id)
)


def add(session: Session, points: Sequence[Point]) -> None:
    """Stores a report's points in one batch; one that is there already stays as it was."""
    if points:
        session.connection().execute(
            _INSERT[session.get_bind().dialect.name],
            [
                {
                    "trial_id": p.trial_id,
                    "attempt": p.attempt,
                    "step": p.step,
                    "value": p.value,
                    "samples": p.samples,
                    "seconds": p.seconds,
                    "metrics": p.metrics,
                    "created_at": p.created_at,
                }
                for p in points
            ],
        )


def attempt_seconds(session: Session, trial_ids: Collection[int]) -> dict[int, float]:
    """Device seconds that each trial's present attempt has reported so far."""
    rows = session.connection().execute(_ATTEMPT_SECONDS, {"ids": list(trial_ids)})
    return {trial_id: seconds or 0.0 for trial_id, seconds in rows}


def steps(session: Session, trial_id: int, attempt: int) -> set[int]:
    """The steps that one attempt of a trial has measured."""
    mine = (_table.c.trial_id == trial_id, _table.c.attempt == attempt)
    return set(session.scalars(select(_table.c.step).where(*mine)))


def curves(
    session: Session, trial_ids: Collection[int] | None, study_id: int
) -> dict[int, dict[int, float]]:
    """The primary objective by step of each trial; a later attempt's word counts.

    Args:
        session: Where to read.
        trial_ids: Which trials; None: all of the study.
        study_id: Their study.
    """
    query = select(Measurement.trial_id, Measurement.step, Measurement.value).where(
        Measurement.value.is_not(None)
    )
    if trial_ids is None:
        query = query.join(Trial, Trial.id == Measurement.trial_id).where(
            Trial.study_id == study_id
        )
    else:
        query = query.where(Measurement.trial_id.in_(trial_ids))
    out: dict[int, dict[int, float]] = {}
    for trial_id, step, value in session.execute(
        query.order_by(Measurement.trial_id, Measurement.attempt, Measurement.step)
    ):
        if value is not None:
            out.setdefault(trial_id, {})[step] = value
    return out


def columns(
    session: Session, trial_ids: Collection[int], metric: str | None
) -> dict[int, dict[int, float]]:
    """One reported metric by step of each trial, finite values only; None: the objective."""
    value: ColumnElement[Any] = _table.c.value
    if metric is not None:
        stored = _table.c.metrics[metric]
        value = case((stored.as_string().in_(NOT_NUMBERS), None), else_=stored.as_float())
    rows = session.execute(
        select(_table.c.trial_id, _table.c.step, value)
        .where(_table.c.trial_id.in_(trial_ids))
        .order_by(_table.c.trial_id, _table.c.attempt, _table.c.step)
    )
    out: dict[int, dict[int, float]] = {}
    for trial_id, step, number_ in rows:
        if number_ is not None:
            out.setdefault(trial_id, {})[step] = float(number_)
    return out


def of_trial(session: Session, trial_id: int, after_step: int = 0) -> list[Point]:
    """A trial's points by step, the last attempt's word where several measured one."""
    rows = session.execute(
        select(_table)
        .where(_table.c.trial_id == trial_id, _table.c.step > after_step)
        .order_by(_table.c.attempt, _table.c.step)
    )
    points = {row.step: Point(**row._mapping) for row in rows}
    return [points[step] for step in sorted(points)]


def last(session: Session, trial_ids: Collection[int]) -> dict[int, Point]:
    """The last point of each trial that has one."""
    return _last(session, _table.c.trial_id.in_(trial_ids))


def last_of_study(session: Session, study_id: int) -> dict[int, Point]:
    """The last point of each of a study's trials that has one."""
    mine = select(Trial.id).where(Trial.study_id == study_id)
    return _last(session, _table.c.trial_id.in_(mine))


def _last(session: Session, which: ColumnElement[bool]) -> dict[int, Point]:
    place = func.row_number().over(
        partition_by=_table.c.trial_id,
        order_by=(_table.c.attempt.desc(), _table.c.step.desc()),
    )
    inner = select(_table, place.label("place")).where(which).subquery()
    columns = [inner.c[column.name] for column in _table.columns]
    rows = session.execute(select(*columns).where(inner.c.place == 1))
    return {row.trial_id: Point(**row._mapping) for row in rows}


def finite(value: float | None) -> float | None:
    """``value``, or None where it is no finite number."""
    return value if value is not None and math.isfinite(value) else None


def number(stored: object) -> float | None:
    """A stored metric as a number; those not finite are kept as text."""
    if stored is None:
        return None
    return float(stored)  # type: ignore[arg-type]  # a number, or nan, inf, -inf


def numbers(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Stored metrics as numbers."""
    return {name: number(value) for name, value in metrics.items()}
