"""What pictures of a study want: few columns of many trials, and what happened to whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from sqlalchemy import ColumnElement, Table, Text, and_, case, func, select
from sqlalchemy import cast as cast_to
from sqlalchemy.orm import Session

from tuner.storage.measurements import curves, lines, number
from tuner.storage.models import FINISHED_TRIAL_STATES, Event, Study, Trial, Worker
from tuner.storage.optuna.frozen import TRIAL_COLUMNS, Stored, distributions_from, frozen

_trials = cast("Table", Trial.__table__)
_events = cast("Table", Event.__table__)


@dataclass(frozen=True, slots=True)
class Brief:
    """What a curve's caption says of its trial."""

    id: int
    number: int
    state: str
    paused: bool
    params: dict[str, Any]


def brief(
    session: Session,
    study_id: int,
    *,
    numbers: Collection[int] | None = None,
    most: int = 300,
    direction: str = "minimize",
) -> list[Brief]:
    """The trials of these numbers; or those that run, then the best, then the newest others."""
    query = select(Trial.id, Trial.number, Trial.state, Trial.paused, Trial.params).where(
        Trial.study_id == study_id
    )
    if numbers is not None:
        query = query.where(Trial.number.in_(numbers))
    else:
        value = Trial.values[0].as_float()
        place = case((and_(Trial.state == "running", ~Trial.paused), 0), else_=1)
        done = case((Trial.state == "complete", 0), (Trial.state == "waiting", 2), else_=1)
        good = case(
            (Trial.state == "complete", -value if direction == "maximize" else value),
            else_=0.0,
        )
        query = query.order_by(place, done, good, Trial.number.desc()).limit(most)
    return [Brief(*row) for row in session.execute(query)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a finished trial; ``values`` has one number an objective."""

    id: int
    number: int
    state: str
    constraint: float | None
    values: tuple[float | None, ...]


def outcomes(
    session: Session, study_id: int, objectives: int, after: int | None = None
) -> list[Outcome]:
    """A study's finished trials by number; with ``after``, those that ended since that revision."""
    # Text, as a value that is not finite is stored as its name; read here, not by a JSON parser.
    values = [_trials.c["values"][i].as_string() for i in range(objectives)]
    query = select(
        _trials.c.id, _trials.c.number, _trials.c.state, _trials.c.constraint, *values
    ).where(_trials.c.study_id == study_id, _trials.c.state.in_(FINISHED_TRIAL_STATES))
    if after is not None:
        query = query.where(_trials.c.revision > after)
    rows = session.connection().execute(query.order_by(_trials.c.number)).all()
    return [
        Outcome(i, n, state, constraint, tuple(map(number, told)))
        for i, n, state, constraint, *told in rows
    ]


def params(session: Session, trial_ids: Collection[int]) -> dict[int, dict[str, Any]]:
    """The suggested values of these trials, of which there may be some thousands."""
    return _params(session, _trials.c.id.in_(trial_ids))


def params_of_complete(session: Session, study_id: int) -> dict[int, dict[str, Any]]:
    """The suggested values of all complete trials of a study."""
    return _params(session, and_(_trials.c.study_id == study_id, _trials.c.state == "complete"))


def _params(session: Session, which: ColumnElement[bool]) -> dict[int, dict[str, Any]]:
    rows = session.connection().execute(select(_trials.c.id, _trials.c.params).where(which))
    return {trial_id: values for trial_id, values in rows}  # noqa: C416  (rows are no pairs)


def distributions(session: Session, study_id: int) -> list[Mapping[str, BaseDistribution]]:
    """What a study's trials were drawn from: each that differs once."""
    text = cast_to(_trials.c.distributions, Text)
    rows = session.connection().execute(
        select(text).where(_trials.c.study_id == study_id).distinct()
    )
    return [distributions_from(row) for row in sorted(rows.scalars())]


def frozen_trials(
    session: Session, trial_ids: Collection[int], *, with_curves: bool = False
) -> list[FrozenTrial]:
    """These trials in Optuna's form by number, of which there may be some thousands."""
    drawn = lines(session, trial_ids, None) if with_curves else {}
    known = {i: dict(zip(line.steps, line.values, strict=True)) for i, line in drawn.items()}
    return _frozen(session, _trials.c.id.in_(trial_ids), known)


def frozen_study(session: Session, study_id: int) -> list[FrozenTrial]:
    """All trials of a study in Optuna's form by number."""
    return _frozen(session, _trials.c.study_id == study_id, curves(session, study_id))


def _frozen(
    session: Session, which: ColumnElement[bool], known: Mapping[int, Mapping[int, float]]
) -> list[FrozenTrial]:
    query = select(*TRIAL_COLUMNS).where(which).order_by(_trials.c.number)
    rows = [Stored(*row) for row in session.connection().execute(query)]
    return [frozen(row, known.get(row.id, {})) for row in rows]


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that gave trials to somebody, or moved one."""

    kind: str
    trial_id: int | None
    worker_id: int | None
    actor: str | None
    data: dict[str, Any]
    at: datetime


LEASED, MOVED, CREATED = "trial.leased", "trial.state", "trial.created"


def happenings(
    session: Session,
    study_id: int,
    *,
    most: int,
    trial_id: int | None = None,
    between: tuple[datetime, datetime] | None = None,
) -> list[Happening]:
    """The newest events about who had which trial, oldest first.

    Args:
        session: Where to read.
        study_id: The trials' study.
        most: How many at most.
        trial_id: Only moves of this trial; what names many trials the caller looks into.
        between: Only those from the one moment to the other.
    """
    moved = _events.c.kind == MOVED
    if trial_id is not None:
        moved = and_(moved, _events.c.trial_id == trial_id)
    query = select(
        _events.c.kind,
        _events.c.trial_id,
        _events.c.worker_id,
        _events.c.actor,
        _events.c.data,
        _events.c.created_at,
    ).where(
        _events.c.study_id == study_id,
        moved | _events.c.kind.in_((LEASED,) if trial_id is None else (LEASED, CREATED)),
    )
    if between is not None:
        query = query.where(_events.c.created_at.between(*between))
    rows = session.connection().execute(query.order_by(_events.c.id.desc()).limit(most))
    return [Happening(*row) for row in reversed(rows.all())]


def devices(session: Session, study_id: int) -> list[dict[str, Any]]:
    """On what a study's trials were trained last, each worker's device once."""
    workers = select(Trial.worker_id).where(
        Trial.study_id == study_id, Trial.worker_id.is_not(None)
    )
    return list(session.scalars(select(Worker.device).where(Worker.id.in_(workers))))


def seconds_per_epoch(session: Session, task: str, most: int = 500) -> float | None:
    """Device seconds of an epoch in the newest trials of a task; None where there are none."""
    every = Study.spec["eval_every"].as_float()
    newest = (
        select(Trial.device_seconds, (Trial.step * every).label("epochs"))
        .join(Study, Study.id == Trial.study_id)
        .where(
            Study.spec[("task", "name")].as_string() == task,
            Trial.step > 0,
            Trial.device_seconds > 0,
        )
        .order_by(Trial.id.desc())
        .limit(most)
        .subquery()
    )
    seconds, epochs = session.execute(
        select(func.sum(newest.c.device_seconds), func.sum(newest.c.epochs))
    ).one()
    return float(seconds) / float(epochs) if epochs else None


def holders(session: Session, study_id: int) -> int:
    """How many workers hold trials of a study now; a user's own loop is none."""
    held = select(func.count(Trial.worker_id.distinct())).where(
        Trial.study_id == study_id, Trial.state == "running", Trial.lease_token.is_not(None)
    )
    return session.scalar(held) or 0
