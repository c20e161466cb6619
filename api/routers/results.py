"""What came out of a study: the best trials, importances, advice, figures, files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response

from api.problems import documented, finite
from api.routers.parameters import StudyId
from api.security import Ctx, Reader, TokenFirst
from tuner import service
from tuner.errors import NotFound, Refusal, UnknownName
from tuner.service import Evaluator, Importances, RangeEvidence, TrialView

router = APIRouter(route_class=TokenFirst, prefix="/studies/{study_id}", tags=["results"])

FigureName = Annotated[str, Path(max_length=64, description=", ".join(service.FIGURES))]

MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}


@router.get("/best", summary="Best trials", responses=documented(NotFound))
def best(
    context: Ctx,
    _principal: Reader,
    study_id: StudyId,
    k: Annotated[int | None, Query(ge=1, le=1000)] = None,
) -> list[TrialView]:
    """The best ``k`` trials, one unless given; with several objectives, the Pareto front.

    Of the front those come first that are best by the first objective; all of it unless `k` is
    given.
    """
    return service.best(context, study_id, k=k)


@router.get("/range", summary="Range of learning rates", responses=documented(NotFound))
def range_test(context: Ctx, _principal: Reader, study_id: StudyId) -> RangeEvidence:
    """The range test before the first trial: which rates it found, from which curve, and why."""
    return service.show_range(context, study_id)


@router.get("/importances", summary="Parameter importances", responses=documented(NotFound))
def importances(
    context: Ctx,
    _principal: Reader,
    study_id: StudyId,
    evaluator: Annotated[
        Evaluator, Query(description="What it asks is in the answer's ``meaning``.")
    ] = "ped_anova",
) -> Importances:
    """How much each parameter matters; without any, the reason why."""
    return service.importances(context, study_id, evaluator=evaluator)


@router.get(
    "/advice",
    summary="Move the best to another batch size",
    responses=documented(NotFound, Refusal, UnknownName),
)
def advice(
    context: Ctx,
    _principal: Reader,
    study_id: StudyId,
    batch: Annotated[int, Query(ge=1, le=2**31, description="The new batch size.")],
    trial: Annotated[
        int | None, Query(ge=0, lt=2**31, description="A trial's number; the best unless given.")
    ] = None,
    fixed: Annotated[
        Literal["epochs", "steps"], Query(description="What both runs have the same number of.")
    ] = "epochs",
    rule: Annotated[
        str | None, Query(max_length=64, description="Insists on one; else the best evidence.")
    ] = None,
) -> dict[str, Any]:
    """The configuration at the new batch size, by the study's own trials and noise scale."""
    found = service.advise_study(context, study_id, batch, trial=trial, fixed=fixed, rule=rule)
    return dict(finite(found.to_dict()))


@router.get("/figures/{name}", summary="A figure", responses=documented(NotFound))
def figure(context: Ctx, _principal: Reader, study_id: StudyId, name: FigureName) -> dict[str, Any]:
    """One of Optuna's figures over its trials, a sample if they are many, as Plotly JSON."""
    return service.figure(context, study_id, name)


@router.get(
    "/export",
    summary="Export",
    response_class=Response,
    responses={
        **documented(NotFound),
        200: {
            "description": "The trials as a file.",
            "content": {kind: {} for kind in MEDIA_TYPES.values()},
        },
    },
)
def export(
    context: Ctx,
    _principal: Reader,
    study_id: StudyId,
    format: Annotated[Literal["csv", "json", "parquet"], Query()] = "csv",
) -> Response:
    """All trials of the study as a file."""
    content = service.export(context, study_id, format)
    return Response(
        content,
        media_type=MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="study-{study_id}.{format}"'},
    )
