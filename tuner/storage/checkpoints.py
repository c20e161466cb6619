"""Checkpoints: where trials' last saved states are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, update
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


def in_vain(session: Session, since: datetime | None, limit: int) -> list[Saved]:
    """Checkpoints in studies that have ended (since a moment), some at a time."""
    query = _SAVED.join(Study, Study.id == Trial.study_id).where(
        Study.state.in_(FINISHED_STUDY_STATES), Trial.state.in_(FINISHED_TRIAL_STATES)
    )
    if since is not None:
        query = query.where(Study.finished_at >= since)
    return _saved(session, query.order_by(Trial.id).limit(limit))


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
