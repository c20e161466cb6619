"""Taking turns: a study's lock in this process, then its row's lock in the database.

Whoever changes a study or its trials takes a turn, and all of it is committed; or nothing is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.service.context import Context
from tuner.service.searches import Live
from tuner.service.turn import Turn
from tuner.storage import events, studies, trials
from tuner.storage.models import FINISHED_STUDY_STATES


@contextmanager
def turns(
    ctx: Context, study_ids: Collection[int], *, actor: str | None = None
) -> Iterator[dict[int, Turn]]:
    """Takes a turn for each study that is there, in one transaction.

    Yields:
        The turns by study id; ids of studies that are gone are left out.
    """
    now = ctx.now()
    taken: dict[int, Turn] = {}
    with ctx.searches.hold(study_ids) as lives:
        try:
            with ctx.db.write() as session:
                _take(session, lives, now, taken)
                yield taken
                for turn in taken.values():
                    if turn.deleted:
                        events.add(session, turn.events, actor, now)
                    else:
                        turn.finish(actor)
        except BaseException:
            for study_id, live in lives.items():
                if study_id not in taken or taken[study_id].touched:
                    live.drop()
            raise
        for study_id, turn in taken.items():
            if turn.told:
                turn.live.revision = turn.study.revision
            if turn.settled:
                turn.live.settled_at = turn.study.revision
            if turn.deleted or turn.study.state in FINISHED_STUDY_STATES:
                ctx.searches.forget(study_id)


def _take(
    session: Session, lives: Mapping[int, Live], now: datetime, taken: dict[int, Turn]
) -> None:
    """Locks the studies' rows, in the order of their ids."""
    for study_id in sorted(lives):
        live = lives[study_id]
        live.study = studies.lock(session.connection(), study_id, live.study)
        if live.study is not None:
            taken[study_id] = Turn(session, live.study, live, now)


@contextmanager
def turn(ctx: Context, study_id: int, *, actor: str | None = None) -> Iterator[Turn]:
    """Takes a turn for one study.

    Raises:
        NotFound: It is not there.
    """
    with turns(ctx, [study_id], actor=actor) as taken:
        if study_id not in taken:
            raise NotFound("study", study_id)
        yield taken[study_id]


@contextmanager
def turn_of(ctx: Context, trial_id: int, *, actor: str | None = None) -> Iterator[Turn]:
    """Takes a turn for the study of a trial.

    Raises:
        NotFound: There is no such trial.
    """
    study_id = studies_of(ctx, [trial_id]).get(trial_id)
    with turns(ctx, [] if study_id is None else [study_id], actor=actor) as taken:
        if study_id not in taken:
            raise NotFound("trial", trial_id)
        yield taken[study_id]


def studies_of(ctx: Context, trial_ids: Collection[int]) -> dict[int, int]:
    """The study of each trial; those that were handed out here need no look into the database."""
    known = ctx.searches.recall(trial_ids)
    missing = [i for i in trial_ids if i not in known]
    if missing:
        with ctx.db.session() as session:
            found = trials.study_ids(session, missing)
        ctx.searches.remember(found)
        known.update(found)
    return known
