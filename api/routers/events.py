"""Events: a study's as a stream, for dashboards and ``submit --watch``; all of them, for audits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from api.live import Feed, while_good
from api.problems import documented
from api.routers.parameters import Cursor, Limit, StudyId
from api.security import Admin, Ctx, Reader, Shown, TokenFirst, still_good
from tuner import service
from tuner.errors import InvalidInput, NotFound
from tuner.service import Context, EventView, Page
from tuner.storage.models import FINISHED_STUDY_STATES

router = APIRouter(route_class=TokenFirst)

RECHECK_SECONDS = 5.0
"""How often a listener's token is looked at again."""

After = Annotated[
    int | None,
    Query(ge=0, lt=2**63, description="Only later events; without it, from now on."),
]


@router.get(
    "/studies/{study_id}/events",
    tags=["results"],
    summary="Listen to a study",
    response_class=EventSourceResponse,
    responses={
        **documented(NotFound),
        200: {
            "description": "One message an event: its id, and the event as JSON.",
            "content": {"text/event-stream": {}},
        },
        204: {"description": "The study is over and everything was told: do not come back."},
    },
)
async def events(
    request: Request,
    context: Ctx,
    _principal: Reader,
    token: Shown,
    study_id: StudyId,
    after: After = None,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """What changes in the study, as it happens; the stream ends with the study, or the token.

    A listener that lost the connection comes back with ``Last-Event-ID`` and misses nothing.
    """
    feed: Feed = request.app.state.feed
    start = _event_id(last_event_id) if last_event_id else after
    if start is None:  # before anything else: what happens from here on is heard, an end too
        start = await run_in_threadpool(service.newest_event, context)
    study = await run_in_threadpool(service.show_study, context, study_id)
    if study.over and await _all_told(context, study_id, start):
        return Response(status_code=204)
    batches = feed.missed(study_id, start) if study.over else feed.listen(study_id, start)
    good = while_good(batches, partial(still_good, request, token), RECHECK_SECONDS)
    return EventSourceResponse(_messages(good), ping=15, sep="\n")


@router.get("/audit", tags=["meta"], summary="The audit trail", responses=documented())
def audit(
    context: Ctx, _principal: Admin, cursor: Cursor = None, limit: Limit = 50
) -> Page[EventView]:
    """Every change of anything, tokens and webhooks too, by whom and when; the newest first."""
    return service.audit(context, cursor=cursor, limit=limit)


async def _all_told(context: Context, study_id: int, after: int) -> bool:
    return await run_in_threadpool(service.newest_event, context, study_id=study_id) <= after


def _event_id(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) >= 2**63:
        raise InvalidInput("Last-Event-ID", f"{text!r} is not an id that this server sent")
    return int(text)


async def _messages(batches: AsyncGenerator[list[EventView]]) -> AsyncIterator[ServerSentEvent]:
    # Something at once, so that a browser knows that the stream is open.
    yield ServerSentEvent(comment="listening", retry=2000)
    async with aclosing(batches):
        async for batch in batches:
            for event in batch:
                yield ServerSentEvent(id=str(event.id), data=event.model_dump_json())
                if event.kind == "study.state" and event.data.get("state") in FINISHED_STUDY_STATES:
                    return
                if event.kind == "study.deleted":
                    return
