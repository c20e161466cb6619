"""The driver: keeps as many actors as the server says are wanted."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tuner.errors import InvalidInput, TunerError, Unavailable
from tuner.patience import patiently
from tuner.protocol import PoolAnswer, PoolBeat
from tuner.transport import Transport
from tuner.worker.ray.actor import Actor, Plan

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Between two looks at the actors."""
SILENT_SECONDS = 10.0
"""An actor not heard of for so long counts as not running: it starts, or waits for room."""
RETRY_SECONDS = 2.0
"""Before the server is asked again that could not be reached."""
GRACE_SECONDS = 30.0
"""How long an actor may take to save its slots and return its leases."""
LONGEST_PAUSE_SECONDS = 60.0
"""Between actors whose work fails: a second at first, twice as long each time, and at most this."""


@dataclass
class Member:
    """An actor as the driver knows it.

    Args:
        actor: Its handle.
        work: Comes when its loop ends.
        answer: Comes with its next sign of life.
        started_at: When it was asked for.
        node: Where it was when it last gave a sign of life.
        heard_at: When it last gave a sign of life, if ever.
        stopping_at: When it was told to stop.
    """

    actor: Any
    work: Any
    answer: Any
    started_at: float
    node: str = ""
    heard_at: float | None = None
    stopping_at: float | None = None

    @property
    def running(self) -> bool:
        """Whether it was heard of lately."""
        return self.heard_at is not None and time.monotonic() - self.heard_at < SILENT_SECONDS


class Pool:
    """Keeps as many actors as are wanted.

    Args:
        ray: Ray's module, connected.
        transport: The way to the server.
        plan: What each actor is told.
        stop: Ends the work: actors save their slots and return their leases.
    """

    def __init__(self, ray: Any, transport: Transport, plan: Plan, stop: threading.Event) -> None:
        self.ray = ray
        self.transport = transport
        self.plan = plan
        self.stop = stop
        self.members: list[Member] = []
        self.wanted: int | None = None
        self._driver = uuid.uuid4().hex
        self._known = False
        self._beat_at = 0.0
        self._failures = 0
        self._start_at = 0.0
        self._remote = ray.remote(Actor).options(
            **plan.resources,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=4,  # it works, and hears meanwhile
            scheduling_strategy="SPREAD",
        )

    def run(self) -> None:
        """Works until it is stopped or cannot go on; either way it lets its actors end in order.

        Raises:
            Unavailable: The server could not be reached at first.
            InvalidInput: The actors cannot work as they are told to.
            Conflict: Another driver has taken the pool over.
        """
        try:
            while not self.stop.is_set():
                self._tell()
                self._look()
                self._resize()
                self.stop.wait(POLL_SECONDS)
        finally:
            self._end()

    # The server.

    def _tell(self) -> None:
        """Says how the pool stands, when it is time to, and learns how many are wanted."""
        if time.monotonic() < self._beat_at:
            return
        wait = 0.0 if self._known else self.plan.wait_seconds
        try:
            answer = patiently(
                lambda: self._say(first=not self._known), seconds=wait, stop=self.stop
            )
        except Unavailable as error:
            if not self._known:
                raise
            log.warning("the server was not told how the pool stands: %s", error)
            self._beat_at = time.monotonic() + RETRY_SECONDS
            return
        if not self._known or answer.wanted != self.wanted:
            log.info(
                "workers wanted: %s", "as many as fit" if answer.wanted is None else answer.wanted
            )
        self._known, self.wanted = True, answer.wanted
        self._beat_at = time.monotonic() + answer.heartbeat_seconds

    def _say(self, *, first: bool = False, last: bool = False) -> PoolAnswer:
        beat = PoolBeat(
            name=self.plan.name,
            driver=self._driver,
            first=first,
            last=last,
            running=sum(member.running for member in self.members),
            fits=self.plan.fits(self.ray.nodes()),
        )
        said = self.transport.call("POST", "pools", content=beat.model_dump_json(), repeatable=True)
        return PoolAnswer.model_validate_json(said.content, extra="ignore")

    # The actors.

    def _look(self) -> None:
        """Takes in what the actors said, and lets those go that are done."""
        now = time.monotonic()
        for member in list(self.members):
            if self._came(member.work):
                self.members.remove(member)
                self._ended(member)
            elif self._came(member.answer):
                self._hear(member)
            elif member.stopping_at is not None and (
                # One that never was there holds nothing.
                member.heard_at is None or now - member.stopping_at > GRACE_SECONDS
            ):
                self.members.remove(member)
                self.ray.kill(member.actor)

    def _hear(self, member: Member) -> None:
        """Takes a sign of life, and asks for the next one."""
        try:
            member.node = self.ray.get(member.answer)
        except self.ray.exceptions.RayError:
            return  # it will not come back; its work says why
        member.heard_at = time.monotonic()
        # Said each time, so that a process that was started since hears it too.
        member.answer = member.actor.hear.remote(member.stopping_at is not None)

    def _came(self, reference: Any) -> bool:
        return bool(self.ray.wait([reference], timeout=0)[0])

    def _ended(self, member: Member) -> None:
        """Looks why an actor's work is over: drained or told to, or it failed."""
        try:
            self.ray.get(member.work)
            return
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
        finally:
            self.ray.kill(member.actor)
        if isinstance(cause, InvalidInput):
            raise cause
        now = time.monotonic()
        if now - member.started_at > LONGEST_PAUSE_SECONDS:
            self._failures = 0
        pause = min(2.0**self._failures, LONGEST_PAUSE_SECONDS)
        self._failures += 1
        self._start_at = now + pause
        log.warning("a worker failed, the next starts in %g s: %s", pause, cause)

    def _resize(self) -> None:
        """Starts actors that are missing, and tells those to stop that are too many."""
        nodes = self.ray.nodes()
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        wanted = self.plan.fits(nodes) if self.wanted is None else self.wanted
        staying = [member for member in self.members if member.stopping_at is None]
        # Those that are not there are too many first, then the youngest.
        staying.sort(key=lambda m: (not m.running or m.node not in alive, m.started_at))
        self._dismiss(staying[wanted:])
        if time.monotonic() < self._start_at:
            return
        for _ in range(wanted - len(staying)):
            actor = self._remote.remote(self.plan)
            work, answer = actor.work.remote(), actor.hear.remote(False)
            self.members.append(Member(actor, work, answer, time.monotonic()))

    def _dismiss(self, members: Iterable[Member]) -> None:
        for member in members:
            member.stopping_at = time.monotonic()
            member.actor.hear.remote(True)

    def _end(self) -> None:
        """Tells every actor to stop, and waits until all have saved and returned what they held."""
        self._dismiss(member for member in self.members if member.stopping_at is None)
        while self.members:
            try:
                self._look()
            except InvalidInput as error:
                log.warning("a worker failed: %s", error)
            time.sleep(POLL_SECONDS / 5)
        try:
            self._say(last=True)
        except TunerError as error:
            log.info("the server was not told of the end: %s", error)
