"""The queue as a few dictionaries: what must be so after all that was done to the real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tuner.protocol import Leased
from tuner.service import Asked, TrialView


@dataclass
class Holder:
    """A lease that a worker, or a user's own loop, believes in.

    Args:
        worker: Its place among the workers; None: an own loop.
        trial_id: What it holds.
        token: Under which lease.
        attempt: Of the trial.
        config: The trial's.
        step: The last one it has trained.
        expires: When the lease runs out unless it is heard of.
    """

    worker: int | None
    trial_id: int
    token: str
    attempt: int
    config: dict[str, Any]
    step: int
    expires: datetime

    @classmethod
    def of_worker(cls, worker: int, leased: Leased, expires: datetime) -> Holder:
        return cls(
            worker,
            leased.trial_id,
            leased.token,
            leased.attempt,
            leased.config,
            leased.start,
            expires,
        )

    @classmethod
    def of_loop(cls, asked: Asked, attempt: int) -> Holder:
        return cls(None, asked.trial_id, asked.token, attempt, asked.config, 0, asked.expires_at)


@dataclass
class Watch:
    """When a server's rounds of upkeep began to follow each other without a gap."""

    since: datetime | None = None
    last: datetime | None = None

    def tick(self, now: datetime, lease: timedelta) -> bool:
        """A round; whether it follows a whole lease without a gap."""
        if self.since is None or self.last is None or now - self.last > lease / 2:
            self.since = now
        self.last = now
        return now - self.since >= lease


@dataclass
class Model:
    """What must be so."""

    open: bool = True
    """Whether the study may start trials."""
    over: bool = False
    """Whether it was seen to have ended, which ends what nobody holds."""
    holders: dict[int, Holder] = field(default_factory=dict)
    """The one true holder of each trial."""
    stale: list[Holder] = field(default_factory=list)
    """Those that have lost their lease but may still speak."""
    points: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    """Attempt and step of every acknowledged point."""
    final: dict[int, TrialView] = field(default_factory=dict)
    """Trials as they were when they ended."""
    attempts: dict[int, int] = field(default_factory=dict)
    losses: dict[int, tuple[int, int]] = field(default_factory=dict)
    """How often holders fell silent over a trial since it last came further, and how far it was."""

    def of(self, worker: int | None) -> list[Holder]:
        """What one worker, or own loops, hold."""
        return [holder for holder in self.holders.values() if holder.worker == worker]

    def hold(self, holder: Holder) -> None:
        """A trial was handed out."""
        known = self.holders.get(holder.trial_id)
        if known is not None and known.token == holder.token:
            return  # the answer to the same request, given again
        assert known is None, "a trial was handed to a second holder"
        assert holder.trial_id not in self.final, "a finished trial was handed out"
        assert self.attempts.get(holder.trial_id, 1) <= holder.attempt
        self.attempts[holder.trial_id] = holder.attempt
        self.holders[holder.trial_id] = holder

    def lose(self, trial_id: int) -> None:
        """Its holder has lost it and does not know."""
        self.stale.append(self.holders.pop(trial_id))

    def silent(self, trial_id: int) -> int:
        """Its holder's lease ran out; how often that was so since the trial last came further."""
        self.lose(trial_id)
        reached = max((step for _, step in self.points.get(trial_id, ())), default=0)
        times, furthest = self.losses.get(trial_id, (0, 0))
        self.losses[trial_id] = (1 if reached > furthest else times + 1, reached)
        return self.losses[trial_id][0]

    def stored(self, holder: Holder, step: int) -> None:
        """A point was acknowledged."""
        self.points.setdefault(holder.trial_id, set()).add((holder.attempt, step))
