"""What came out of a study: the best trials, curves, importances, figures, files."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.problems import documented
from api.routers.parameters import StudyId
from api.security import Ctx, Reader
from tuner import service
from tuner.errors import NotFound
from tuner.service import TrialView

router = APIRouter(prefix="/studies/{study_id}", tags=["results"])

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
    k: Annotated[int, Query(ge=1, le=1000)] = 1,
) -> list[TrialView]:
    """The best ``k`` trials; with several objectives the Pareto front."""
    return service.best(context, study_id, k=k)
