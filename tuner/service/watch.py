"""Whether anybody has been listening: silence counts only against a holder who could be heard.

A server that was stopped or cut off from its database, or whose clock was set, finds leases that
have run out though their holders tried to renew them. They get a whole lease to try again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass
class Watch:
    """Rounds of upkeep, and since when they have followed each other without a gap.

    Attributes:
        since: The first round after the last gap; None: there was no round yet.
        last: The last round that succeeded.
    """

    since: datetime | None = None
    last: datetime | None = None

    def whole(self, now: datetime, lease: timedelta) -> bool:
        """Whether a round now follows a whole lease without a gap.

        Half a lease without a round is a gap, and so is a clock that went back. Workers show life
        at least twice a lease, so whoever is there was heard within any other one.
        """
        gap = None if self.last is None else now - self.last
        if self.since is None or gap is None or not timedelta(0) <= gap <= lease / 2:
            self.since = now
        return now - self.since >= lease

    def done(self, now: datetime) -> None:
        """The round that began now has succeeded."""
        self.last = now
