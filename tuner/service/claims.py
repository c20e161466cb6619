"""Requests for work: said again, they are given what they were given before, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tuner.errors import Conflict
from tuner.queue import leases
from tuner.queue.leases import Lease
from tuner.service.context import Context
from tuner.service.receipts import same
from tuner.service.turn import ORIGIN, Turn
from tuner.service.turns import take
from tuner.storage import receipts
from tuner.storage.prepared import Executing
from tuner.storage.receipts import NewReceipt

T = TypeVar("T")


class AnsweredBefore(Exception):
    """The same request was answered before, under this token."""

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.token = token


@dataclass
class Claim:
    """One request for work.

    Args:
        worker_id: Who is to hold it; None: a user's own loop.
        key: The name under which its receipt is kept; None: said again, it is another request.
        said: The request's digest.
        seconds: The life of the lease; a worker's unless given.
        origin: Of trials that are suggested for it.
        actor: On whose behalf.
        token: The lease's, the same for all that the request is given.
    """

    worker_id: int | None
    key: str | None
    seconds: float | None = None
    origin: str = ORIGIN
    actor: str | None = None
    said: str = ""
    token: str = field(default_factory=leases.new_token)
    _kept: bool = field(default=False, init=False)
    """Whether its receipt is stored, with what it was given first."""

    def refuse_repeated(self, connection: Executing) -> None:
        """Goes no further with a request that was answered before.

        Raises:
            AnsweredBefore: It was.
            InvalidInput: Another request of its name was.
        """
        made = None if self.key is None else receipts.find(connection, self.key)
        if made is not None:
            same(made, self.said)
            raise AnsweredBefore(made["token"])

    def lease(self, ctx: Context, this: Turn) -> Lease:
        """What it holds its work under."""
        return Lease(self.worker_id, self.token, ctx.lease_end(this.now, self.seconds))

    def keep(self, this: Turn) -> None:
        """Notes that the request is given something in this turn, which :meth:`take` took."""
        if self.key is not None and not self._kept:
            this.receipt = NewReceipt(self.key, {"token": self.token, "said": self.said})

    def take(
        self,
        ctx: Context,
        study_id: int,
        act: Callable[[dict[int, Turn]], T],
        *,
        slow: bool = False,
    ) -> T:
        """Takes a study's turn, in which the request may be given something.

        Args:
            ctx: The service.
            study_id: The study.
            act: As for :func:`tuner.service.turns.take`; returns what is given, if anything.
            slow: Whether it takes long.

        Raises:
            AnsweredBefore: The same request was given something at the same moment elsewhere.
        """
        try:
            given = take(ctx, [study_id], act, slow=slow, actor=self.actor)
        except Conflict:
            with ctx.db.peek() as connection:
                self.refuse_repeated(connection)
            raise
        self._kept = self._kept or bool(given)
        return given
