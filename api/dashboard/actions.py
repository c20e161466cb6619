"""What buttons do: each a form that posts, checks the origin, changes one thing and goes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from api.dashboard.render import back, root_of
from api.routers.parameters import StudyId, TrialId, WorkerId
from api.routers.pools import PoolId
from api.security import Ctx, Principal, TokenFirst, check_origin, require
from tuner import service
from tuner.errors import InvalidInput
from tuner.service import pools


def from_a_page(
    request: Request, found: Annotated[Principal, Depends(require("submit"))]
) -> Principal:
    """The one who asks, from a page of ours: a browser always says where a form comes from."""
    check_origin(request, browser=True)
    return found


Clicker = Annotated[Principal, Depends(from_a_page)]

router = APIRouter(route_class=TokenFirst)

STUDY_ACTIONS: Mapping[str, Callable[..., object]] = {
    "pause": service.pause_study,
    "resume": service.resume_study,
    "stop": service.stop_study,
    "cancel": service.cancel_study,
}


@router.post("/studies/{study_id}/delete")
def delete_study(request: Request, context: Ctx, who: Clicker, study_id: StudyId) -> Response:
    """Deletes, and goes to the list: the page it came from is no more."""
    service.delete_study(context, study_id, actor=who.name)
    return RedirectResponse(root_of(request) + "/", 303)


@router.post("/studies/{study_id}/{action}")
def change_study(
    request: Request,
    context: Ctx,
    who: Clicker,
    study_id: StudyId,
    action: Literal["pause", "resume", "stop", "cancel"],
) -> Response:
    """Pauses, resumes, stops or cancels."""
    STUDY_ACTIONS[action](context, study_id, actor=who.name)
    return back(request, f"/studies/{study_id}")


@router.post("/trials/{trial_id}/stop")
def stop_trial(request: Request, context: Ctx, who: Clicker, trial_id: TrialId) -> Response:
    """Stops a trial."""
    service.stop_trial(context, trial_id, actor=who.name)
    return back(request, f"/trials/{trial_id}")


@router.post("/trials/{trial_id}/retry")
def retry_trial(request: Request, context: Ctx, who: Clicker, trial_id: TrialId) -> Response:
    """Queues a trial's configuration once more, and goes to the new trial."""
    made = service.retry_trial(context, trial_id, actor=who.name)
    return RedirectResponse(f"{root_of(request)}/trials/{made.id}", 303)


@router.post("/workers/{worker_id}/drain")
def drain_worker(request: Request, context: Ctx, who: Clicker, worker_id: WorkerId) -> Response:
    """Lets a worker finish what it holds."""
    service.drain_worker(context, worker_id, actor=who.name)
    return back(request, "/workers")


@router.post("/pools/{pool_id}/scale")
def scale_pool(
    request: Request,
    context: Ctx,
    who: Clicker,
    pool_id: PoolId,
    wanted: Annotated[str, Form(max_length=20)] = "",
) -> Response:
    """Says how many workers a pool should have; nothing: as many as fit."""
    text = wanted.strip()
    if text and not (text.isascii() and text.isdecimal()):
        raise InvalidInput("wanted", f"{text!r} is not a whole number")
    pools.scale_pool(context, pool_id, int(text) if text else None, actor=who.name)
    return back(request, "/workers")
