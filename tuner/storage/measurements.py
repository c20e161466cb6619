"""Measurements: curves, read of a study or a page of trials at once.

An attempt replaces what earlier ones of its trial reported, from its own first step on.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, bindparam, case, exists, select
from sqlalchemy.orm import Session

from tuner.storage.models import Measurement, Trial
from tuner.storage.prepared import Prepared

NOT_NUMBERS = ("nan", "inf", "-inf")
_table = cast("Table", Measurement.__table__)
_trials = cast("Table", Trial.__table__)


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


_CURVES = Prepared(
    select(_table.c.trial_id, _table.c.attempt, _table.c.step, _table.c.value)
    .join(_trials, _trials.c.id == _table.c.trial_id)
    .where(
        _trials.c.study_id == bindparam("of_study"),
        _trials.c.revision > bindparam("since"),
    )
    .order_by(_table.c.trial_id, _table.c.attempt, _table.c.step)
)


def steps(session: Session, trial_id: int, attempt: int) -> set[int]:
    """The steps that one attempt of a trial has measured."""
    mine = (_table.c.trial_id == trial_id, _table.c.attempt == attempt)
    return set(session.scalars(select(_table.c.step).where(*mine)))


def curves(session: Session, study_id: int, since: int = -1) -> dict[int, dict[int, float]]:
    """The primary objective by step of each trial, where it is finite.

    Args:
        session: Where to read.
        study_id: Whose trials.
        since: Only of those that changed after this revision.
    """
    out: dict[int, dict[int, float]] = {}
    given = {"of_study": study_id, "since": since}
    curve: dict[int, float] = {}
    of = by = 0
    for trial_id, attempt, step, value in _CURVES.rows(session.connection(), given):
        if trial_id != of or attempt != by:
            of, by = trial_id, attempt
            curve = out.setdefault(trial_id, {})
            replace_from(curve, step)
        if value is not None:
            curve[step] = value
    return out


def replace_from(curve: dict[int, float], step: int) -> None:
    """Drops what an attempt replaces whose first step this is."""
    for stale in [known for known in curve if known >= step]:
        del curve[stale]


@dataclass(slots=True)
class Line:
    """One metric of one trial; the lists are as long as each other."""

    steps: list[int]
    x: list[float]
    values: list[float]


def lines(
    session: Session, trial_ids: Collection[int], metric: str | None, x: str = "step"
) -> dict[int, Line]:
    """One reported metric of each trial over ``x``, finite values only.

    Seconds of an attempt that start anew, as some report them, go on where those before left off.

    Args:
        session: Where to read.
        trial_ids: Which trials.
        metric: None: the objective.
        x: ``step``, or the column ``samples`` or ``seconds``; points without it are left out.
    """
    value: ColumnElement[Any] = _table.c.value
    if metric is not None:
        stored = _table.c.metrics[metric]
        value = case((stored.as_string().in_(NOT_NUMBERS), None), else_=stored.as_float())
    rows = session.connection().execute(
        select(_table.c.trial_id, _table.c.attempt, _table.c.step, _table.c[x], value)
        .where(_table.c.trial_id.in_(trial_ids))
        .order_by(_table.c.trial_id, _table.c.attempt, _table.c.step)
    )
    out: dict[int, Line] = {}
    holder = (0, 0)
    offset: float | None = None
    line = Line([], [], [])
    for trial_id, attempt, step, place, number_ in rows.all():
        if holder != (trial_id, attempt):
            line = out.get(trial_id) or Line([], [], [])
            holder, offset = (trial_id, attempt), None
            at = bisect_left(line.steps, step)
            for column in (line.steps, line.x, line.values):
                del column[at:]
        if number_ is None or place is None:
            continue
        out[trial_id] = line
        if offset is None:
            offset = line.x[-1] if line.x and place < line.x[-1] else 0.0
        line.steps.append(step)
        line.x.append(float(place) + offset)
        line.values.append(float(number_))
    return out


def of_trial(session: Session, trial_id: int, after_step: int = 0) -> list[Point]:
    """A trial's points by step."""
    later = _table.alias()
    replaced = exists().where(
        later.c.trial_id == _table.c.trial_id,
        later.c.attempt > _table.c.attempt,
        later.c.step <= _table.c.step,
    )
    rows = session.execute(
        select(_table)
        .where(_table.c.trial_id == trial_id, _table.c.step > after_step, ~replaced)
        .order_by(_table.c.step)
    )
    return [Point(**row._mapping) for row in rows]


def last(session: Session, trial_ids: Collection[int]) -> dict[int, Point]:
    """The last point of each trial that has one."""
    return _last(session, _trials.c.id.in_(trial_ids))


def last_of_study(session: Session, study_id: int) -> dict[int, Point]:
    """The last point of each of a study's trials that has one."""
    return _last(session, _trials.c.study_id == study_id)


def _last(session: Session, which: ColumnElement[bool]) -> dict[int, Point]:
    # Two looks into the key a trial: ranking whole curves reads and sorts every point.
    mine = _table.alias()
    newest = (
        select(mine.c.attempt, mine.c.step)
        .where(mine.c.trial_id == _trials.c.id)
        .order_by(mine.c.attempt.desc(), mine.c.step.desc())
        .limit(1)
    )
    rows = session.connection().execute(
        select(*(_table.c[column.name] for column in fields(Point)))
        .join(_trials, _trials.c.id == _table.c.trial_id)
        .where(
            which,
            _table.c.attempt == newest.with_only_columns(mine.c.attempt).scalar_subquery(),
            _table.c.step == newest.with_only_columns(mine.c.step).scalar_subquery(),
        )
    )
    return {point.trial_id: point for point in (Point(*row) for row in rows)}


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
