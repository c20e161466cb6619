"""Workers: who trains. The calls are those of ``tuner.protocol``; writes carry leases.

Most of a service's requests come here. Those that workers repeat take one thread, which also writes
the answer's text; what FastAPI does for plain functions takes two, one after the other, and looks
at each field of an answer again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Request, Response, status
from pydantic import BaseModel

from api.problems import documented
from api.routers.parameters import Cursor, Limit, WorkerId
from api.security import Ctx, Reader, Submitter, TokenFirst, Trainer
from tuner import service
from tuner.errors import NotFound
from tuner.protocol import (
    Heartbeat,
    HeartbeatAnswer,
    LeaseAnswer,
    LeaseRequest,
    Registration,
    Report,
    ReportAnswer,
    WorkerHello,
)
from tuner.service import Page, WorkerView

router = APIRouter(route_class=TokenFirst, prefix="/workers", tags=["workers"])


async def lane(request: Request) -> CapacityLimiter:
    """The threads that the calls which workers repeat have to themselves."""
    found: CapacityLimiter = request.app.state.lane
    return found


Lane = Annotated[CapacityLimiter, Depends(lane)]


@router.get("", summary="Workers", responses=documented())
def list_workers(
    context: Ctx, _principal: Reader, cursor: Cursor = None, limit: Limit = 50
) -> Page[WorkerView]:
    """The workers that are there, or were in the last week: device, slots, last sign of life.

    Those that registered last come first.
    """
    return service.page_of_workers(context, cursor=cursor, limit=limit)


@router.post(
    "",
    summary="Register a worker",
    status_code=status.HTTP_201_CREATED,
    responses=documented(),
)
def register_worker(context: Ctx, principal: Trainer, hello: WorkerHello) -> Registration:
    """Introduces a worker; the answer names its id and how often it must show life."""
    return service.register_worker(context, hello, actor=principal.name)


@router.post(
    "/{worker_id}/lease",
    summary="Lease trials",
    response_model=LeaseAnswer,
    responses=documented(NotFound),
)
async def lease(
    context: Ctx, lane: Lane, principal: Trainer, worker_id: WorkerId, request: LeaseRequest
) -> Response:
    """Takes up to ``k`` trials; none when nothing waits."""
    return await _answer(lane, service.lease, context, worker_id, request, actor=principal.name)


@router.post(
    "/{worker_id}/report",
    summary="Report a round",
    response_model=ReportAnswer,
    responses=documented(NotFound),
)
async def report(
    context: Ctx, lane: Lane, principal: Trainer, worker_id: WorkerId, report: Report
) -> Response:
    """Delivers all slots' measurements; the answer says which stop, and what fills free slots.

    Safe to repeat. A slot whose lease was lost gets the verdict ``lost`` and changes nothing.
    """
    return await _answer(lane, service.report, context, worker_id, report, actor=principal.name)


@router.post(
    "/{worker_id}/heartbeat",
    summary="Show life",
    response_model=HeartbeatAnswer,
    responses=documented(NotFound),
)
async def heartbeat(
    context: Ctx, lane: Lane, _principal: Trainer, worker_id: WorkerId, beat: Heartbeat
) -> Response:
    """Renews the leases it names; the answer lists trials to drop."""
    return await _answer(lane, service.heartbeat, context, worker_id, beat)


@router.post("/{worker_id}/drain", summary="Drain a worker", responses=documented(NotFound))
def drain_worker(context: Ctx, principal: Submitter, worker_id: WorkerId) -> WorkerView:
    """Lets the worker finish what it holds and gives it no more."""
    return service.drain_worker(context, worker_id, actor=principal.name)


@router.delete(
    "/{worker_id}",
    summary="Leave",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=documented(NotFound),
)
def leave(context: Ctx, principal: Trainer, worker_id: WorkerId) -> None:
    """Says goodbye; what the worker still held waits for others."""
    service.leave(context, worker_id, actor=principal.name)


async def _answer(
    lane: CapacityLimiter, call: Callable[..., BaseModel], *arguments: Any, **options: Any
) -> Response:
    def called() -> bytes:
        return call(*arguments, **options).model_dump_json().encode()

    text = await to_thread.run_sync(called, limiter=lane)
    return Response(text, media_type="application/json")
