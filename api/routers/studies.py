"""Studies: submit, look, change, end."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response, status

from api.problems import documented
from api.routers.parameters import Cursor, Key, Limit, StudyId, StudyState
from api.security import Ctx, Reader, Submitter, TokenFirst
from tuner import service
from tuner.errors import Conflict, NotFound, UnknownName
from tuner.service import Page, Preview, StudyPatch, StudyView
from tuner.spec import StudySpec

router = APIRouter(route_class=TokenFirst, prefix="/studies", tags=["studies"])

EXAMPLE = {
    "name": "digits-adamw",
    "task": {"name": "digits"},
    "objective": {"metric": "val_loss", "direction": "minimize"},
    "space": {
        "optimizer": "adamw",
        "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
    },
    "sampler": {"name": "tpe", "seed": 0},
    "pruner": {"name": "asha"},
    "budget": {"trials": 64, "epochs": 20},
}
Spec = Annotated[StudySpec, Body(examples=[EXAMPLE])]


@router.post(
    "",
    summary="Submit a study",
    status_code=status.HTTP_201_CREATED,
    responses=documented(UnknownName, Conflict),
)
def submit(
    context: Ctx,
    principal: Submitter,
    spec: Spec,
    request: Request,
    response: Response,
    key: Key = None,
) -> StudyView:
    """Checks the study and queues it; workers begin as soon as one is free.

    The body has the fields of the study file. A wrong value is refused by its name, and nothing is
    stored.
    """
    study = service.submit(context, spec, actor=principal.name, key=key)
    response.headers["Location"] = str(request.url_for("show_study", study_id=study.id))
    return study


@router.post("/preview", summary="Dry run", responses=documented(UnknownName))
def preview(context: Ctx, _principal: Reader, spec: Spec) -> Preview:
    """What the study would do: ten sample configs, the grid's size, trials and total epochs."""
    return service.preview(context, spec)


@router.get("", summary="List studies", responses=documented())
def list_studies(
    context: Ctx,
    _principal: Reader,
    state: StudyState | None = None,
    tag: Annotated[str | None, Query(max_length=255)] = None,
    text: Annotated[str | None, Query(max_length=255, description="Part of the name.")] = None,
    sort: Annotated[
        str,
        Query(
            max_length=64,
            description="created_at, name, priority or id; a minus before it reverses.",
        ),
    ] = "-created_at",
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[StudyView]:
    """A page of studies, newest first unless ``sort`` says otherwise."""
    return service.list_studies(
        context, state=state, tag=tag, text=text, sort=sort, cursor=cursor, limit=limit
    )


@router.get("/{study_id}", summary="Show a study", responses=documented(NotFound))
def show_study(context: Ctx, _principal: Reader, study_id: StudyId) -> StudyView:
    """The study, how far it is, its best trial, its throughput and what is left."""
    return service.show_study(context, study_id)


@router.patch("/{study_id}", summary="Change a study", responses=documented(NotFound, Conflict))
def update_study(
    context: Ctx, principal: Submitter, study_id: StudyId, patch: StudyPatch
) -> StudyView:
    """Changes what may change while it runs; fields that are absent stay."""
    return service.update_study(context, study_id, patch, actor=principal.name)


@router.delete(
    "/{study_id}",
    summary="Delete a study",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=documented(NotFound, Conflict),
)
def delete_study(context: Ctx, principal: Submitter, study_id: StudyId) -> None:
    """Removes the study with its trials and measurements, for good."""
    service.delete_study(context, study_id, actor=principal.name)


@router.post("/{study_id}/pause", summary="Pause", responses=documented(NotFound, Conflict))
def pause_study(context: Ctx, principal: Submitter, study_id: StudyId) -> StudyView:
    """Workers save running trials at their next report and hand them back."""
    return service.pause_study(context, study_id, actor=principal.name)


@router.post("/{study_id}/resume", summary="Resume", responses=documented(NotFound, Conflict))
def resume_study(context: Ctx, principal: Submitter, study_id: StudyId) -> StudyView:
    """Takes a paused study up again, from the saved trials."""
    return service.resume_study(context, study_id, actor=principal.name)


@router.post("/{study_id}/stop", summary="Stop", responses=documented(NotFound, Conflict))
def stop_study(context: Ctx, principal: Submitter, study_id: StudyId) -> StudyView:
    """Starts no further trial and lets the running ones end."""
    return service.stop_study(context, study_id, actor=principal.name)


@router.post("/{study_id}/cancel", summary="Cancel", responses=documented(NotFound, Conflict))
def cancel_study(context: Ctx, principal: Submitter, study_id: StudyId) -> StudyView:
    """Ends the study now; running trials are dropped."""
    return service.cancel_study(context, study_id, actor=principal.name)
