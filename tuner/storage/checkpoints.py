"""Checkpoints: where trials' last saved states are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, not_, select, update
from sqlalchemy.orm import Session

from tuner.storage.models import FINISHED_STUDY_STATES, FINISHED_TRIAL_STATES, Study, Trial


@dataclass(frozen=True)
class Saved:
    """A trial's last checkpoint."""

    trial_id: int
    study_id: int
    number: int
    uri: str


_SAVED = select(Trial.id, Trial.study_id, Trial.number, Trial.checkpoint).where(
    Trial.checkpoint.is_not(None)
)


def in_vain(session: Session, since: datetime | None, limit: int, *, keep: str) -> list[Saved]:
    """Checkpoints in studies that have ended (since a moment), some at a time.

    Those of trials that failed for the reason ``keep`` are not in vain.
    """
    query = _SAVED.join(Study, Study.id == Trial.study_id).where(
        Study.state.in_(FINISHED_STUDY_STATES),
        Trial.state.in_(FINISHED_TRIAL_STATES),
        not_(_kept(keep)),
    )
    if since is not None:
        query = query.where(Study.finished_at >= since)
    return _saved(session, query.order_by(Trial.id).limit(limit))


def ended(session: Session, since: datetime) -> set[int]:
    """The studies that have ended since a moment."""
    query = select(Study.id).where(
        Study.state.in_(FINISHED_STUDY_STATES), Study.finished_at >= since
    )
    return set(session.scalars(query))


def over(session: Session, study_ids: Collection[int], *, keep: str) -> dict[int, set[int]]:
    """Those studies that have ended or are gone, with the trials whose checkpoints are kept."""
    going = select(Study.id).where(
        Study.id.in_(study_ids), Study.state.not_in(FINISHED_STUDY_STATES)
    )
    found: dict[int, set[int]] = {i: set() for i in {*study_ids} - {*session.scalars(going)}}
    kept = select(Trial.study_id, Trial.number).where(Trial.study_id.in_(list(found)), _kept(keep))
    for study_id, number in session.execute(kept):
        found[study_id].add(number)
    return found


def _kept(reason: str) -> ColumnElement[bool]:
    return and_(Trial.state == "fail", func.coalesce(Trial.reason, "") == reason)


def of_study(session: Session, study_id: int) -> list[Saved]:
    """The checkpoints of one study's trials."""
    return _saved(session, _SAVED.where(Trial.study_id == study_id))


def forget(session: Session, trial_ids: Collection[int]) -> None:
    """Their checkpoints are gone. No new revision: a deleted file is no news of a trial."""
    session.execute(
        update(Trial)
        .where(Trial.id.in_(trial_ids), Trial.state.in_(FINISHED_TRIAL_STATES))
        .values(checkpoint=None)
        .execution_options(synchronize_session=False)
    )


def _saved(session: Session, query: Select[Any]) -> list[Saved]:
    return [
        Saved(trial_id, study_id, number, str(checkpoint["uri"]))
        for trial_id, study_id, number, checkpoint in session.execute(query)
    ]
