"""For those who run the service: is it alive, is it ready, what does Prometheus scrape."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from api.metrics import Metrics
from api.problems import documented
from api.security import Ctx, TokenFirst, require
from tuner import __version__
from tuner.errors import SchemaOutdated, Unavailable
from tuner.storage import migrate

router = APIRouter(route_class=TokenFirst, tags=["meta"])


class Health(BaseModel):
    """A sign of life."""

    status: str = "ok"
    version: str = __version__


@router.get("/healthz", summary="Alive")
async def healthz() -> Health:
    """The process answers; says nothing of the database, and needs no thread."""
    return Health()


@router.get("/readyz", summary="Ready", responses=documented(Unavailable, SchemaOutdated))
def readyz(request: Request, context: Ctx) -> Health:
    """The database answers, its tables are those that this version expects, and upkeep goes on."""
    for chore in request.app.state.chores:
        if chore.stuck_seconds:
            raise Unavailable(
                f"{chore.name} has not come back for {chore.stuck_seconds:.0f} s", chore=chore.name
            )
    migrate.check(context.db)
    return Health()


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    dependencies=[Depends(require("read"))],
    responses={**documented(), 200: {"content": {"text/plain": {}}}},
)
def metrics(request: Request) -> Response:
    """Requests of this process, and the queue as the database has it."""
    found: Metrics = request.app.state.metrics
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)
