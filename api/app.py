"""The application: REST under ``/api/v1``, the dashboard at ``/``, the service's housekeeping."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import cache

from anyio import CapacityLimiter
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute

from api import dashboard, problems
from api.live import Feed
from api.metrics import Metrics
from api.middleware import (
    BodyLimit,
    Forwarded,
    HostGuard,
    Mistakes,
    PathPrefix,
    SecurityHeaders,
    Timing,
)
from api.routers import (
    advisor,
    catalogue,
    datasets,
    events,
    meta,
    pictures,
    pools,
    results,
    studies,
    trials,
    webhooks,
    workers,
)
from api.security import FailureLimit
from api.text import require_text
from tuner import __version__, service
from tuner.service import Context, outbox
from tuner.service.background import Repeated, running
from tuner.settings import Settings
from tuner.webhooks import Sender

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")

WORKERS_THREADS = 4
"""Calls of workers that are answered at once. They are short, and of Python's threads one runs at a
time: where 40 took its lock from each other, a call took a hundred times as long."""

LOGIN_BYTES = 16 * 1024
"""The one body that is read of somebody unknown."""

DESCRIPTION = """\
Tune hyperparameters: submit a study, let workers train its trials, watch, and take the best.

Every error is `application/problem+json` with a stable `code`, the `field` that is wrong and the
`facts` that a program needs. Lists page by cursor. A request carries a token as
`Authorization: Bearer ...`, with the scope that the route needs.
"""

TAGS = [
    {"name": "studies", "description": "Submit, look, change, end."},
    {"name": "trials", "description": "Trials of a study, and one's own training loop."},
    {"name": "results", "description": "Best trials, curves, figures, files, live events."},
    {"name": "workers", "description": "Who trains. Writes carry the lease token of their trial."},
    {"name": "catalogue", "description": "What a study can name."},
    {"name": "advisor", "description": "How to move a good configuration; nothing is stored."},
    {"name": "webhooks", "description": "Who is told when a study ends."},
    {"name": "meta", "description": "For those who run the service."},
]


def create_app(context: Context, settings: Settings | None = None, *, auth: bool = True) -> FastAPI:
    """The application over one service context, which the caller opens and closes.

    Args:
        context: The service.
        settings: Body limit, path prefix and proxy; those of the environment by default.
        auth: Whether tokens are asked for. Without them everybody who reaches the port may do
            everything, so the caller binds to loopback, and other host names are refused.
    """
    chosen = settings or Settings.read()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        courier = outbox.Courier(context, Sender(context.settings.webhook_hosts))
        app.state.chores = (*service.chores(context), Repeated("webhooks", courier.deliver))
        with closing(courier), running(*app.state.chores):
            try:
                yield
            finally:
                await app.state.feed.close()

    app = FastAPI(
        title="tuner",
        version=__version__,
        summary="Self-hosted hyperparameter tuning.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # FastAPI's page loads its scripts from a CDN; ours is in the dashboard
        redoc_url=None,
        lifespan=lifespan,
        license_info={"name": "Apache-2.0"},
    )
    app.state.context = context
    app.state.auth = auth
    app.state.max_dataset_bytes = chosen.max_dataset_bytes
    app.state.secure = chosen.behind_proxy
    app.state.failures = FailureLimit()
    app.state.feed = Feed(context)
    app.state.lane = CapacityLimiter(WORKERS_THREADS)
    app.state.chores = ()
    app.state.metrics = Metrics(context, lambda: app.state.chores)

    problems.install(app)
    app.router.routes.extend(_routes())
    dashboard.install(app)

    # The last one added is the first to see a request.
    app.add_middleware(Mistakes)
    app.add_middleware(
        BodyLimit,
        limit_bytes=chosen.max_body_bytes,
        others={"/api/v1/datasets": chosen.max_dataset_bytes, "/login": LOGIN_BYTES},
    )
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    if not auth:
        app.add_middleware(HostGuard, hosts=LOOPBACK)
    app.add_middleware(SecurityHeaders, https=chosen.behind_proxy)
    app.add_middleware(Timing, histogram=app.state.metrics.latency)
    if chosen.behind_proxy:
        app.add_middleware(Forwarded)
    if prefix := chosen.root_path.strip("/"):
        app.add_middleware(PathPrefix, prefix=f"/{prefix}")
    return app


@cache
def _routes() -> list[BaseRoute]:
    """What all applications of a process answer: reading the signatures takes a quarter second."""
    router = APIRouter(generate_unique_id_function=_operation_id)
    for module in (
        studies,
        trials,
        results,
        pictures,
        events,
        workers,
        pools,
        catalogue,
        datasets,
        advisor,
        webhooks,
    ):
        router.include_router(module.router, prefix="/api/v1", dependencies=[Depends(require_text)])
    router.include_router(meta.router)
    for module in dashboard.PAGES:
        router.include_router(module.router, include_in_schema=False)
    return router.routes


def _operation_id(route: APIRoute) -> str:
    return route.name
