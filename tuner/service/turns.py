"""Taking turns: a study's lock in this process, then its row's lock in the database.

Whoever changes a study or its trials takes a turn, and all of it is committed; or nothing is. What
users do now and then holds both locks from start to end (:func:`turn`). What happens at each report
goes by what this process has at hand, and locks the row only to write (:func:`take`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

from tuner.errors import Locked, NotFound, SearchFailed, TunerError
from tuner.service.context import Context
from tuner.service.searches import Live
from tuner.service.turn import Turn
from tuner.service.unit import Stale, Unit
from tuner.storage import studies, trials

T = TypeVar("T")
log = logging.getLogger(__name__)

TRIES = 3
"""The last one holds the lock from its start, so that it cannot fail for what others do."""


@contextmanager
def turn(
    ctx: Context, study_id: int, *, actor: str | None = None, wait: bool = True
) -> Iterator[Turn]:
    """Takes a turn for one study, locked from its start.

    Args:
        ctx: The service.
        study_id: The study.
        actor: On whose behalf.
        wait: Whether to wait for another process that has the study locked.

    Raises:
        NotFound: It is not there.
        Locked: Somebody has it locked.
        SearchFailed: Its search raised.
    """
    with (
        failing(ctx),
        ctx.searches.hold([study_id]) as lives,
        _unit(ctx, lives, actor, wait=wait) as unit,
    ):
        taken = unit.begin(locked=True)
        if study_id not in taken:
            raise NotFound("study", study_id)
        yield taken[study_id]


@contextmanager
def turn_of(ctx: Context, trial_id: int, *, actor: str | None = None) -> Iterator[Turn]:
    """Takes a turn for the study of a trial, locked from its start.

    Raises:
        NotFound: There is no such trial.
    """
    with turn(ctx, study_of(ctx, trial_id), actor=actor) as this:
        yield this


def take(
    ctx: Context,
    study_ids: Collection[int],
    act: Callable[[dict[int, Turn]], T],
    *,
    slow: bool = False,
    actor: str | None = None,
) -> T:
    """Takes a turn for each study that is there, in one transaction.

    As long as no other process changes a study, what this one has at hand is the truth. So ``act``
    goes by that, and what it changes is written if the database still has the same revision;
    otherwise it runs again.

    Args:
        ctx: The service.
        study_ids: The studies.
        act: Gets the turns by study id, without those of studies that are gone. As it may run
            several times, it has no effect but on its turns.
        slow: Whether ``act`` takes long. On SQLite, whose one lock stops all writers, it then runs
            without that lock unless it has failed twice.
        actor: On whose behalf.

    Returns:
        What ``act`` returns.

    Raises:
        Locked: Somebody has one of them locked.
        SearchFailed: A study's search raised; said again, it meets a study that is over.
    """
    patient = slow and ctx.db.embedded
    with failing(ctx), ctx.searches.hold(study_ids) as lives:
        for attempt in range(TRIES):
            contested = attempt > 0 or any(live.guarded or live.stuck for live in lives.values())
            locked = contested and not (patient and attempt < TRIES - 1)
            known = all(live.study and live.search for live in lives.values())
            if not known or (contested and not locked):
                _look(ctx, lives)
            try:
                with _unit(ctx, lives, actor) as unit:
                    taken = unit.begin(locked=locked or len(lives) != 1)
                    try:
                        return act(taken)
                    except TunerError:
                        unit.session()  # what it goes by may be wrong
                        raise
            except Stale:
                continue
    raise AssertionError("what is locked is not stale")


def take_one(
    ctx: Context, trial_id: int, act: Callable[[Turn], T], *, actor: str | None = None
) -> T:
    """Takes a turn for the study of a trial, as :func:`take` does.

    Raises:
        NotFound: There is no such trial.
    """
    study_id = study_of(ctx, trial_id)

    def act_if_there(taken: dict[int, Turn]) -> T:
        if study_id not in taken:
            raise NotFound("trial", trial_id)
        return act(taken[study_id])

    return take(ctx, [study_id], act_if_there, actor=actor)


@contextmanager
def failing(ctx: Context) -> Iterator[None]:
    """Lets a study fail whose search raises, so that it keeps nobody waiting again."""
    try:
        yield
    except SearchFailed as error:
        log.exception("a study's search failed", extra={"study": error.study})
        with suppress(NotFound), turn(ctx, error.study) as this:
            if not this.study.over:
                this.close(this.open_rows(), "search failed")
                this.state("failed", error.message)
        raise


def _look(ctx: Context, lives: Mapping[int, Live]) -> None:
    """Brings what is at hand up to date, while the database is locked for nobody."""
    for study_id, live in lives.items():
        with ctx.db.session() as session:
            live.study = studies.find(session, study_id)
            if live.study is not None and live.study.spec and not live.study.over:
                live.synced(session, live.study)


@contextmanager
def _unit(
    ctx: Context, lives: Mapping[int, Live], actor: str | None, *, wait: bool = True
) -> Iterator[Unit]:
    """A unit of work; when it ends, what is at hand is what the database holds, or forgotten."""
    unit = Unit(ctx.db, lives, ctx.now(), wait=wait)
    try:
        with unit:
            yield unit
            unit.finish(actor)
    except BaseException as error:
        for study_id, live in lives.items():
            if study_id in unit.turns:
                if unit.turns[study_id].touched:
                    live.drop()
            elif not isinstance(error, Locked):  # which says nothing against what is at hand
                ctx.searches.forget(study_id)
        raise
    for study_id, live in lives.items():
        this = unit.turns.get(study_id)
        if this is None or this.deleted or this.study.over:
            ctx.searches.forget(study_id)
            continue
        live.study = this.study
        if this.told:
            live.revision = this.study.revision
        if this.settled:
            live.settled_at = this.study.revision


def study_of(ctx: Context, trial_id: int) -> int:
    """The study of a trial.

    Raises:
        NotFound: There is no such trial.
    """
    found = studies_of(ctx, [trial_id])
    if trial_id not in found:
        raise NotFound("trial", trial_id)
    return found[trial_id]


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
