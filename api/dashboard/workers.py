"""The workers: what they run on, what they do now, and when they were last heard of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.dashboard.render import Viewer, render, render_pieces
from api.dashboard.views import Shown, device_words
from api.security import Ctx, TokenFirst
from tuner import service
from tuner.service import WorkerView, pools
from tuner.service.pools import PoolView

router = APIRouter(route_class=TokenFirst)

MOST = 500


@dataclass(frozen=True)
class WorkerSummary:
    """A worker, in words."""

    id: int
    name: str
    state: str
    device: str
    host: str
    held: int
    slots: int
    samples_per_second: float | None
    memory_used: float | None
    """Of a GPU, by all that run on it; None where nobody measures it."""
    memory_total: float | None
    engine: str
    """How it trains now, and why."""
    tasks: Sequence[str]
    heartbeat_at: datetime

    @classmethod
    def of(cls, worker: WorkerView) -> WorkerSummary:
        """The worker as the templates see it."""
        status, present, busy = worker.status, worker.state != "gone", worker.held > 0
        total, free = _number(status, "memory_total"), _number(status, "memory_free")
        return cls(
            id=worker.id,
            name=worker.name,
            state=worker.state,
            device=device_words(worker.device),
            host=str(worker.device.get("host") or ""),
            held=worker.held,
            slots=worker.slots,
            samples_per_second=_number(status, "samples_per_second") if busy else None,
            memory_used=total - free if present and total and free is not None else None,
            memory_total=total or _number(worker.device, "memory"),
            engine=str(status.get("engine") or "") if busy else "",
            tasks=worker.tasks,
            heartbeat_at=worker.heartbeat_at,
        )


@dataclass(frozen=True)
class WorkersPage(Shown):
    """All workers."""

    workers: Sequence[WorkerSummary]
    pools: Sequence[PoolView]
    """Workers that something else places, such as Ray."""
    url: str
    """The address of this server, for the line that starts a worker."""

    @property
    def present(self) -> Sequence[WorkerSummary]:
        """Those that are not gone."""
        return [worker for worker in self.workers if worker.state != "gone"]


@router.get("/workers")
def show_workers(
    request: Request,
    context: Ctx,
    who: Viewer,
    fragment: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """All workers, those that are present first."""
    workers = service.list_workers(context)
    workers = sorted(workers, key=lambda w: (w.state == "gone", -w.heartbeat_at.timestamp()))
    page = WorkersPage(
        title="Workers",
        section="/workers",
        who=who,
        pools=pools.list_pools(context),
        workers=[WorkerSummary.of(worker) for worker in islice(workers, MOST)],
        url=str(request.base_url).rstrip("/"),
    )
    if fragment:
        return render_pieces(request, page, {"workers": "workers_table.html"}, fragment)
    return render(request, "workers.html", page)


def _number(told: Mapping[str, Any], name: str) -> float | None:
    value = told.get(name)
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None
