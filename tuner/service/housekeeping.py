"""The jobs of every process that owns a database: upkeep, and thinking ahead."""

from __future__ import annotations

from tuner.service.background import Repeated
from tuner.service.context import Context
from tuner.service.upkeep import look_ahead, tick

FITTING_SECONDS = 600.0
"""How long the models of all studies may take to be fitted."""


def chores(ctx: Context, seconds: float = 1.0) -> tuple[Repeated, ...]:
    """What must happen though nobody asks; several processes may do so on one database.

    Models are fitted in a thread of their own, so that no lease and no study waits for them.
    """
    # Rounds that are rarer than leases are short would look like a server that is away.
    often = min(seconds, ctx.settings.lease_seconds / 10)
    return (
        Repeated("housekeeping", lambda: tick(ctx), often),
        Repeated("look-ahead", lambda: look_ahead(ctx), often, limit_seconds=FITTING_SECONDS),
    )
