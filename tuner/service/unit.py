"""A unit of work: the transaction of turns taken together, begun when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session

from tuner.service.searches import Live
from tuner.service.turn import Turn
from tuner.storage import events, studies
from tuner.storage.engine import Database


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
    """

    def __init__(self, db: Database, lives: Mapping[int, Live], now: datetime) -> None:
        self.turns: dict[int, Turn] = {}
        self._db = db
        self._lives = lives
        self._now = now
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
        """A turn for each study that is there, as it is at hand or, ``locked``, as it is."""
        if locked:
            self._session = session = self._stack.enter_context(self._db.write())
            for study_id, live in self._lives.items():
                live.meet(studies.lock(session.connection(), study_id, live.study))
        for study_id, live in self._lives.items():
            if live.study is not None:
                self.turns[study_id] = Turn(self.session, live.study, live, self._now)
        return self.turns

    def session(self) -> Session:
        """Where to read and write, under the studies' locks.

        Raises:
            Stale: A study is not as it was at hand.
        """
        if self._session is None:
            self._session = self._stack.enter_context(self._db.write())
            for study_id, live in self._lives.items():
                found = studies.lock(self._session.connection(), study_id, live.study)
                if found is not live.study:
                    live.guard()
                    raise Stale
        return self._session

    def finish(self, actor: str | None) -> None:
        """Writes what has changed.

        Raises:
            Stale: A study is not as it was at hand.
        """
        changed = [turn for turn in self.turns.values() if turn.touched]
        for turn in changed:
            turn.conclude()
        if changed and self._session is None and len(self._lives) == 1:
            (turn,) = changed
            with self._db.brief() as direct:
                if not turn.write(direct, actor):
                    turn.live.guard()
                    raise Stale
            events.log_all(turn.events, actor)
            return
        session = self.session()
        for turn in changed:
            turn.write(session.connection(), actor)
            events.log_once_committed(session, turn.events, actor)
