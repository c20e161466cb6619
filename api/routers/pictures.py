"""What pictures of a study are made of, thinned to what one can show; each answer says how far."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from api.problems import documented
from api.routers.parameters import StudyId
from api.security import Ctx, Reader, TokenFirst
from tuner import service
from tuner.errors import NotFound
from tuner.service import Curves, Landscape, Overview, Progress, Timeline

router = APIRouter(route_class=TokenFirst, prefix="/studies/{study_id}", tags=["results"])

Parameter = Annotated[str, Query(max_length=255, description="A searched hyperparameter.")]


@router.get(
    "/curves",
    summary="Learning curves",
    response_model=Curves,
    responses=documented(NotFound),
)
def curves(
    context: Ctx,
    _principal: Reader,
    study_id: StudyId,
    metric: Annotated[
        str | None,
        Query(max_length=255, description="The first objective unless given."),
    ] = None,
    x: Annotated[Progress, Query(description="What the curves run over.")] = "step",
    numbers: Annotated[
        list[int] | None, Query(max_length=1000, description="Only these trials.")
    ] = None,
    max_points: Annotated[int, Query(ge=2, le=10_000)] = 200,
    max_trials: Annotated[int, Query(ge=1, le=10_000)] = 300,
) -> Response:
    """One metric of many trials at once: of each stretch of a curve its least and greatest."""
    return _written(
        service.curves(
            context,
            study_id,
            metric=metric,
            x=x,
            numbers=numbers,
            max_points=max_points,
            max_trials=max_trials,
        )
    )


@router.get(
    "/overview",
    summary="All trials in columns",
    response_model=Overview,
    responses=documented(NotFound),
)
def overview(
    context: Ctx,
    _principal: Reader,
    study_id: StudyId,
    since: Annotated[
        int | None,
        Query(ge=0, lt=2**63, description="Only what ended after this ``revision``."),
    ] = None,
    max_trials: Annotated[int, Query(ge=1, le=100_000)] = 2000,
) -> Response:
    """Finished trials with values and hyperparameters: the best, and a fair part of the others."""
    return _written(service.overview(context, study_id, since=since, max_trials=max_trials))


@router.get("/landscape", summary="Two hyperparameters", responses=documented(NotFound))
def landscape(
    context: Ctx, _principal: Reader, study_id: StudyId, x: Parameter, y: Parameter
) -> Landscape:
    """The first objective over two hyperparameters, smoothed where there are trials."""
    return service.landscape(context, study_id, x, y)


@router.get("/timeline", summary="Who trained what, when", responses=documented(NotFound))
def timeline(
    context: Ctx,
    _principal: Reader,
    study_id: StudyId,
    most: Annotated[int, Query(ge=1, le=20_000, description="Events looked at, newest.")] = 2000,
) -> Timeline:
    """Stretches of time in which workers had trials, the newest."""
    return service.timeline(context, study_id, most=most)


def _written(view: BaseModel) -> Response:
    """A large answer, written by Pydantic alone: FastAPI would make Python objects of it first."""
    return Response(view.model_dump_json(), media_type="application/json")
