"""Trials side by side: their differences marked, their curves overlaid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.dashboard.render import Viewer, render
from api.dashboard.views import Shown, StudySummary, curves_of
from api.routers.parameters import StudyId
from api.security import Ctx, TokenFirst
from tuner import service
from tuner.errors import InvalidInput, NotFound
from tuner.service import TrialView

router = APIRouter(route_class=TokenFirst)

MOST = 12
"""Trials that fit side by side."""


@dataclass(frozen=True)
class ComparedRow:
    """One hyperparameter, or one measured number, over the compared trials."""

    name: str
    values: Sequence[Any]
    differs: bool


@dataclass(frozen=True)
class ComparePage(Shown):
    """Several trials side by side."""

    study: StudySummary
    trials: Sequence[TrialView]
    rows: Sequence[ComparedRow]
    """Configurations, those that differ first."""
    measured: Sequence[ComparedRow]
    """What was measured last."""
    metrics: Sequence[str]
    """Curves that can be drawn."""


@router.get("/studies/{study_id}/compare")
def compare(
    request: Request,
    context: Ctx,
    who: Viewer,
    study_id: StudyId,
    trials: Annotated[str, Query(max_length=200)],
) -> Response:
    """Trials side by side."""
    study = service.show_study(context, study_id)
    found = [service.show_trial(context, trial_id) for trial_id in _ids(trials)]
    for trial in found:
        if trial.study_id != study_id:
            raise NotFound("trial", f"{trial.id} in study {study_id}")
    rows = _rows([trial.config for trial in found])
    rows.sort(key=lambda row: not row.differs)
    summary = StudySummary.of(study)
    page = ComparePage(
        title=f"Compare · {study.name}",
        section="/",
        who=who,
        study=summary,
        trials=found,
        rows=rows,
        measured=_rows([trial.last_metrics for trial in found]),
        metrics=curves_of([summary.metric, *(n for t in found for n in t.last_metrics)]),
    )
    return render(request, "compare.html", page)


def _rows(columns: Sequence[Any]) -> list[ComparedRow]:
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column.get(name) for column in columns]
        rows.append(ComparedRow(name, values, any(value != values[0] for value in values)))
    return rows


def _ids(text: str) -> list[int]:
    parts = list(dict.fromkeys(text.split(",")))
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise InvalidInput("trials", "expected ids of trials, such as 3,17,25")
    if len(parts) > MOST:
        raise InvalidInput("trials", f"at most {MOST} trials fit side by side")
    return [int(part) for part in parts]
