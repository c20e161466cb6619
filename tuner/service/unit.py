"""A unit of work: the transaction of turns taken together, begun when it is first needed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session

from tuner.errors import Locked
from tuner.service.searches import MOST_REFUSED, Live
from tuner.service.turn import Turn
from tuner.storage import events, studies
from tuner.storage.engine import Database, translated
from tuner.storage.studies import StudyRow

log = logging.getLogger(__name__)


class Stale(Exception):
    """Another process has changed a study since it was read."""


class Unit:
    """The transaction in which some studies change together.

    Turns may begin on what is at hand. Whoever then wants the database gets it with the studies'
    rows locked, if they still are as they were; and so it is with what is written at the end.

    Args:
        db: The database.
        lives: The studies at hand, in the order of their ids; the caller holds their locks.
        now: The present moment.
        wait: Whether to wait for rows that another process has locked.
    """

    def __init__(
        self, db: Database, lives: Mapping[int, Live], now: datetime, *, wait: bool = True
    ) -> None:
        self.turns: dict[int, Turn] = {}
        self._db = db
        self._lives = lives
        self._now = now
        self._wait = wait
        self._stack = ExitStack()
        self._session: Session | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commits what was written; rolls back where something went wrong."""
        self._stack.__exit__(kind, error, trace)

    def begin(self, *, locked: bool) -> dict[int, Turn]:
        """A turn for each study that is there, as it is at hand or, ``locked``, as it is.

        Raises:
            Locked: Somebody has a study's row locked.
        """
        if locked:
            self._session = session = self._stack.enter_context(self._db.write())
            for study_id, live in self._lives.items():
                live.meet(self._locked(session, study_id, live))
        for study_id, live in self._lives.items():
            if live.study is not None:
                self.turns[study_id] = Turn(self.session, live.study, live, self._now)
        return self.turns

    def session(self) -> Session:
        """Where to read and write, under the studies' locks.

        Raises:
            Stale: A study is not as it was at hand.
            Locked: Somebody has a study's row locked.
        """
        if self._session is None:
            self._session = self._stack.enter_context(self._db.write())
            for study_id, live in self._lives.items():
                if self._locked(self._session, study_id, live) is not live.study:
                    live.guard()
                    raise Stale
        return self._session

    def _locked(self, session: Session, study_id: int, live: Live) -> StudyRow | None:
        wait = self._wait and not live.stuck
        try:
            with translated():
                found = studies.lock(session.connection(), study_id, live.study, wait=wait)
        except Locked:
            _refused(study_id, live, MOST_REFUSED if wait else 1)
            raise
        if live.stuck:
            log.warning("the study is no longer locked", extra={"study": study_id})
        live.refused = 0
        return found

    def finish(self, actor: str | None) -> None:
        """Writes what has changed.

        Raises:
            Stale: A study is not as it was at hand.
            Locked: Somebody has a study's row locked.
        """
        changed = [turn for turn in self.turns.values() if turn.touched]
        for turn in changed:
            turn.conclude()
        if changed and self._session is None and len(self._lives) == 1:
            (turn,) = changed
            try:
                with self._db.brief() as direct:
                    if not turn.write(direct, actor):
                        turn.live.guard()
                        raise Stale
            except Locked:
                _refused(turn.study.id, turn.live, MOST_REFUSED)
                raise
            events.log_all(turn.events, actor)
            return
        session = self.session()
        for turn in changed:
            turn.write(session.connection(), actor)
            events.log_once_committed(session, turn.events, actor)


def _refused(study_id: int, live: Live, times: int) -> None:
    before = live.stuck
    live.refused += times
    if live.stuck and not before:
        log.warning(
            "somebody keeps the study locked; what changes it is refused until it is free",
            extra={"study": study_id},
        )
