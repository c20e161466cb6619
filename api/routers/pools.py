"""Pools: workers that something else places, such as Ray, and how many of them are wanted."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from api.problems import documented
from api.security import Ctx, Reader, Submitter, TokenFirst, Trainer
from tuner.errors import Conflict, NotFound
from tuner.protocol import PoolAnswer, PoolBeat
from tuner.service import pools
from tuner.service.pools import MOST_WANTED, PoolView

router = APIRouter(route_class=TokenFirst, prefix="/pools", tags=["workers"])

PoolId = Annotated[int, Path(ge=1, lt=2**31, description="The pool's id.", examples=[1])]


class Scale(BaseModel):
    """How many workers a pool should have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wanted: int | None = Field(ge=0, le=MOST_WANTED, description="null: as many as fit.")


@router.get("", summary="Pools of workers", responses=documented())
def list_pools(context: Ctx, _principal: Reader) -> list[PoolView]:
    """Every pool, with how many workers it has, should have, and has room for."""
    return pools.list_pools(context)


@router.post("", summary="Show a pool's life", responses=documented(Conflict))
def show_pool_life(context: Ctx, principal: Trainer, beat: PoolBeat) -> PoolAnswer:
    """A pool's driver says how it stands; the answer says how many workers are wanted.

    A driver's first word takes the pool over from the one before, which is told by a conflict.
    """
    return pools.show_life(context, beat, actor=principal.name)


@router.post("/{pool_id}/scale", summary="Scale a pool", responses=documented(NotFound))
def scale_pool(context: Ctx, principal: Submitter, pool_id: PoolId, scale: Scale) -> PoolView:
    """From its next sign of life on, the pool's driver starts workers or lets them go.

    Workers that go save what they train and hand it back.
    """
    return pools.scale_pool(context, pool_id, scale.wanted, actor=principal.name)
