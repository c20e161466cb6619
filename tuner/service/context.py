"""What every use case needs: the database, the clock, the settings and the live searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from sqlalchemy import URL

from tuner.service.memo import Memo
from tuner.service.searches import Searches
from tuner.service.standings import Standings
from tuner.service.tokens import TokenView
from tuner.service.watch import Watch
from tuner.storage.engine import Database
from tuner.storage.workers import Present


def utc_now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


LONGEST_ASK_SECONDS = 604_800.0
"""A user's own loop may ask for a lease as long as this."""


@dataclass(frozen=True)
class ServiceSettings:
    """What a process was told about the queue.

    Args:
        lease_seconds: A lease's life without a sign of life from its holder.
        heartbeat_seconds: How often workers are to give one.
        max_attempts: Holders that may fall silent over a trial without its coming further.
        ask_seconds: The life of a trial that a user's own loop asked for, between its reports.
        home: Where files of the service are kept.
        checkpoints: Where workers beside this process keep checkpoints: a folder, or an address
            that fsspec knows. None: it is known only from what workers say.
        data_roots: Folders below which a study may name files; None: any file, for a service that
            only its own user submits to.
        webhook_hosts: Hosts that webhooks may reach though they are private.
    """

    lease_seconds: float = 30.0
    heartbeat_seconds: float = 5.0
    max_attempts: int = 3
    ask_seconds: float = 3600.0
    home: Path = field(default_factory=lambda: Path(".tuner"))
    checkpoints: str | None = None
    data_roots: tuple[Path, ...] | None = None
    webhook_hosts: tuple[str, ...] = ()


@dataclass
class Context:
    """One process's view of one database. Threads may share it.

    Attributes:
        watch: Since when this process has listened without a gap.
        swept_at: Studies that ended before this have no checkpoints left; None: not yet looked.
        leftovers: Studies that are over, the roots that their checkpoints were in, and when to look
            there again for what was saved meanwhile.
        forgot_at: When receipts were looked through; None: not yet.
        memo: Answers that many ask for.
    """

    db: Database
    now: Callable[[], datetime] = utc_now
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    searches: Searches = field(default_factory=Searches)
    standings: Standings = field(default_factory=Standings)
    heard: dict[int, tuple[Present, datetime]] = field(default_factory=dict)
    """Workers heard of lately, and when, so that not each of their calls is written down."""
    tokens: dict[str, tuple[TokenView, datetime]] = field(default_factory=dict)
    """Good tokens by the hash of their secret, and when they were looked up, so that not each
    request asks for them again; see ``tokens.authenticate``."""
    watch: Watch = field(default_factory=Watch)
    swept_at: datetime | None = None
    leftovers: dict[int, tuple[frozenset[str], datetime]] = field(default_factory=dict)
    forgot_at: datetime | None = None
    memo: Memo = field(init=False)

    def __post_init__(self) -> None:
        self.memo = Memo(self.now)

    @classmethod
    def open(
        cls,
        url: str | URL,
        *,
        now: Callable[[], datetime] = utc_now,
        settings: ServiceSettings | None = None,
    ) -> Self:
        """Opens a database that has all tables (see ``tuner.storage.migrate``)."""
        return cls(Database(url), now, settings or ServiceSettings())

    def close(self) -> None:
        """Closes the connections; the searches are rebuilt from the database when needed."""
        self.db.dispose()

    @property
    def longest_ask_seconds(self) -> float:
        """The longest that a trial of a user's own loop is held without a word."""
        return max(LONGEST_ASK_SECONDS, self.settings.ask_seconds)

    def lease_end(self, now: datetime, seconds: float | None = None) -> datetime:
        """When a lease given now runs out: one of a worker, unless it is to live ``seconds``."""
        return now + timedelta(seconds=self.settings.lease_seconds if seconds is None else seconds)
