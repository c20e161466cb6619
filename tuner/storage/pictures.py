"""What pictures of a whole study read: a few columns of many trials."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, case, select
from sqlalchemy.orm import Session

from tuner.storage.models import FINISHED_TRIAL_STATES, Trial


@dataclass(frozen=True)
class Brief:
    """What a curve's caption says of its trial."""

    id: int
    number: int
    state: str
    paused: bool


def brief(
    session: Session,
    study_id: int,
    *,
    numbers: Collection[int] | None = None,
    most: int = 300,
    direction: str = "minimize",
) -> list[Brief]:
    """The trials of these numbers; or those that run, then the best, then the newest others."""
    query = select(Trial.id, Trial.number, Trial.state, Trial.paused).where(
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
    return [Brief(i, n, state, paused) for i, n, state, paused in session.execute(query)]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a picture of all trials wants of one."""

    id: int
    number: int
    state: str
    values: list[Any] | None
    params: dict[str, Any]
    constraint: float | None


def finished(session: Session, study_id: int) -> list[Finished]:
    """A study's finished trials by number, in few columns."""
    rows = session.execute(
        select(Trial.id, Trial.number, Trial.state, Trial.values, Trial.params, Trial.constraint)
        .where(Trial.study_id == study_id, Trial.state.in_(FINISHED_TRIAL_STATES))
        .order_by(Trial.number)
    )
    return [Finished(*row) for row in rows]


def distributions(session: Session, study_id: int) -> dict[int, dict[str, str]]:
    """Each trial's distributions, as Optuna writes them."""
    rows = session.execute(select(Trial.id, Trial.distributions).where(Trial.study_id == study_id))
    return {trial_id: written for trial_id, written in rows}  # noqa: C416  (rows are no pairs)
