"""Pools of workers: how many are wanted is kept here, and whoever places them asks for it.

So the wish outlives the process that carries it out, and reaches it from any machine that reaches
the server, under the server's tokens.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import Field

from tuner.errors import Conflict, InvalidInput
from tuner.protocol import PoolAnswer, PoolBeat
from tuner.service.upkeep import GONE_AFTER_LEASES
from tuner.service.views import View
from tuner.storage import events, pools
from tuner.storage.events import NewEvent
from tuner.storage.models import Pool

if TYPE_CHECKING:
    from tuner.service.context import Context

MOST_WANTED = 65_536


class PoolView(View):
    """A pool of workers."""

    id: int
    name: str
    present: bool = Field(description="Whether its driver was heard of lately.")
    wanted: int | None = Field(description="Workers that it should have; null: as many as fit.")
    running: int = Field(description="Workers that it has.")
    fits: int = Field(description="Workers that its cluster has room for.")
    created_at: datetime
    heartbeat_at: datetime


def show_life(ctx: Context, beat: PoolBeat, *, actor: str | None = None) -> PoolAnswer:
    """A pool's driver says how it stands, and learns how many workers are wanted.

    The first word of a driver makes it the pool's only one: who starts another means to replace it.

    Raises:
        Conflict: Another driver was started since.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        pool = pools.by_name(session, beat.name)
        if pool is None:
            pool = Pool(
                name=beat.name,
                driver=beat.driver,
                wanted=None,
                running=beat.running,
                fits=beat.fits,
                created_at=now,
                heartbeat_at=now,
            )
            pools.add(session, pool)
            new = [NewEvent("pool.created", data={"pool": pool.id, "name": pool.name})]
            events.add(session, new, actor, now)
        elif beat.first:
            pool.driver = beat.driver
        elif pool.driver != beat.driver and not (beat.last and pool.driver is None):
            raise Conflict(f"another driver has taken over the pool {beat.name!r}", name=beat.name)
        if beat.last:
            pool.driver = None
        pool.running, pool.fits, pool.heartbeat_at = beat.running, beat.fits, now
        return PoolAnswer(wanted=pool.wanted, heartbeat_seconds=ctx.settings.heartbeat_seconds)


def list_pools(ctx: Context) -> list[PoolView]:
    """All pools, by name."""
    with ctx.db.session() as session:
        return [_view(ctx, pool) for pool in pools.every(session)]


def scale_pool(
    ctx: Context, pool_id: int, wanted: int | None, *, actor: str | None = None
) -> PoolView:
    """Says how many workers a pool should have; None: as many as fit.

    Those that are too many save what they train and hand it back.

    Raises:
        NotFound: No such pool.
        InvalidInput: ``wanted`` is no number of workers.
    """
    if wanted is not None and not 0 <= wanted <= MOST_WANTED:
        raise InvalidInput("wanted", f"{wanted} is outside [0, {MOST_WANTED}]")
    now = ctx.now()
    with ctx.db.write() as session:
        pool = pools.get(session, pool_id)
        if pool.wanted != wanted:
            data = {"pool": pool.id, "name": pool.name, "wanted": wanted, "before": pool.wanted}
            pool.wanted = wanted
            session.flush()
            events.add(session, [NewEvent("pool.scaled", data=data)], actor, now)
        return _view(ctx, pool)


def _view(ctx: Context, pool: Pool) -> PoolView:
    silence = timedelta(seconds=GONE_AFTER_LEASES * ctx.settings.lease_seconds)
    present = pool.driver is not None and ctx.now() - pool.heartbeat_at <= silence
    return PoolView(
        id=pool.id,
        name=pool.name,
        present=present,
        wanted=pool.wanted,
        running=pool.running if present else 0,
        fits=pool.fits,
        created_at=pool.created_at,
        heartbeat_at=pool.heartbeat_at,
    )
