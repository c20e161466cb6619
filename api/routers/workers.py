"""Workers: who trains. The calls are those of ``tuner.protocol``; writes carry leases."""

from __future__ import annotations

from fastapi import APIRouter, status

from api.problems import documented
from api.routers.parameters import WorkerId
from api.security import Ctx, Reader, Submitter, Trainer
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
from tuner.service import WorkerView

router = APIRouter(prefix="/workers", tags=["workers"])


@router.get("", summary="Workers", responses=documented())
def list_workers(context: Ctx, _principal: Reader) -> list[WorkerView]:
    """Every worker that is known, with its device, its slots and when it was last heard of."""
    return service.list_workers(context)


@router.post(
    "",
    summary="Register a worker",
    status_code=status.HTTP_201_CREATED,
    responses=documented(),
)
def register_worker(context: Ctx, principal: Trainer, hello: WorkerHello) -> Registration:
    """Introduces a worker; the answer names its id and how often it must show life."""
    return service.register_worker(context, hello, actor=principal.name)


@router.post("/{worker_id}/lease", summary="Lease trials", responses=documented(NotFound))
def lease(
    context: Ctx, principal: Trainer, worker_id: WorkerId, request: LeaseRequest
) -> LeaseAnswer:
    """Takes up to ``k`` trials; none when nothing waits."""
    return service.lease(context, worker_id, request, actor=principal.name)


@router.post("/{worker_id}/report", summary="Report a round", responses=documented(NotFound))
def report(context: Ctx, principal: Trainer, worker_id: WorkerId, report: Report) -> ReportAnswer:
    """Delivers all slots' measurements; the answer says which stop, and what fills free slots.

    Safe to repeat. A slot whose lease was lost gets the verdict ``lost`` and changes nothing.
    """
    return service.report(context, worker_id, report, actor=principal.name)


@router.post("/{worker_id}/heartbeat", summary="Show life", responses=documented(NotFound))
def heartbeat(
    context: Ctx, _principal: Trainer, worker_id: WorkerId, beat: Heartbeat
) -> HeartbeatAnswer:
    """Renews the leases it names; the answer lists trials to drop."""
    return service.heartbeat(context, worker_id, beat)


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
