"""Pools: how many workers are wanted, who may say how many there are."""

from __future__ import annotations

import pytest

from tests.tuner.service.simulation import Clock
from tuner import service
from tuner.errors import Conflict, InvalidInput, NotFound
from tuner.protocol import PoolBeat
from tuner.service import Context, pools


def beat(
    ctx: Context, driver: str, *, running: int = 0, name: str = "ray", **word: bool
) -> int | None:
    told = PoolBeat(name=name, driver=driver, running=running, fits=4, **word)
    return pools.show_life(ctx, told, actor="cluster").wanted


def test_the_wish_outlives_the_driver(ctx: Context) -> None:
    assert beat(ctx, "a", first=True) is None
    (pool,) = pools.list_pools(ctx)
    scaled = pools.scale_pool(ctx, pool.id, 3, actor="anna")
    assert (scaled.wanted, scaled.present) == (3, True)
    assert beat(ctx, "a", running=3) == 3
    assert pools.list_pools(ctx)[0].running == 3
    assert beat(ctx, "b", first=True) == 3
    assert beat(ctx, "b", first=True) == 3, "an answer was lost and the beat repeated"
    assert pools.scale_pool(ctx, pool.id, None).wanted is None
    assert [(e.kind, e.actor, e.data.get("wanted")) for e in service.events(ctx)] == [
        ("pool.created", "cluster", None),
        ("pool.scaled", "anna", 3),
        ("pool.scaled", None, None),
    ]


def test_the_driver_started_last_is_the_only_one(ctx: Context) -> None:
    beat(ctx, "a", first=True, running=2)
    beat(ctx, "b", first=True)
    with pytest.raises(Conflict, match="taken over"):
        beat(ctx, "a", running=2)
    assert pools.list_pools(ctx)[0].running == 0
    assert beat(ctx, "c", name="other") is None


def test_a_pool_whose_driver_ended_has_no_workers(ctx: Context) -> None:
    beat(ctx, "a", first=True, running=2)
    for _ in range(2):  # an answer was lost and the word repeated
        beat(ctx, "a", last=True)
        assert [(p.present, p.running) for p in pools.list_pools(ctx)] == [(False, 0)]
    with pytest.raises(Conflict):
        beat(ctx, "a", running=2)
    beat(ctx, "b", first=True, running=1)
    assert pools.list_pools(ctx)[0].present


def test_a_pool_not_heard_of_has_no_workers(ctx: Context, clock: Clock) -> None:
    beat(ctx, "a", first=True, running=2)
    clock.advance(61)
    (pool,) = pools.list_pools(ctx)
    assert (pool.present, pool.running, pool.fits) == (False, 0, 4)


def test_wrong_wishes_are_refused(ctx: Context) -> None:
    with pytest.raises(NotFound):
        pools.scale_pool(ctx, 99, 1)
    beat(ctx, "a", first=True)
    (pool,) = pools.list_pools(ctx)
    for wanted in (-1, 65_537):
        with pytest.raises(InvalidInput) as caught:
            pools.scale_pool(ctx, pool.id, wanted)
        assert caught.value.field == "wanted"
    assert pools.scale_pool(ctx, pool.id, 0).wanted == 0
