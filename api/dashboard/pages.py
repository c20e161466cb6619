"""The pages that show: studies, one study, one trial, trials side by side, workers.

Each answers a whole page, or with ``?fragment=NAME`` one piece of it, which the page's script puts
in place when something changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any
from urllib.parse import urlencode

import yaml
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.dashboard.render import Viewer, render, root_of
from api.dashboard.views import (
    ComparedRow,
    ComparePage,
    RangeCurve,
    StudiesPage,
    StudyPage,
    StudySummary,
    TrialPage,
    TrialsTable,
    WorkersPage,
    WorkerSummary,
)
from api.routers.parameters import Cursor, Filters, Order, StudyId, TrialId, filters_of
from api.security import Ctx
from tuner import service
from tuner.errors import InvalidInput, NotFound
from tuner.service import Context, StudyView, TrialView

router = APIRouter()

ROWS = 50
MOST_COMPARED = 12
STATES = ("queued", "running", "paused", "stopping", "completed", "cancelled", "failed")
TRIAL_STATES = ("waiting", "running", "complete", "pruned", "fail")
SORTS = (
    ("-created_at", "Newest first"),
    ("created_at", "Oldest first"),
    ("name", "By name"),
    ("-priority", "By priority"),
)

Text = Annotated[str, Query(max_length=255)]
Fragment = Annotated[str, Query(max_length=20)]


@router.get("/")
def show_studies(
    request: Request,
    context: Ctx,
    who: Viewer,
    text: Text = "",
    state: Text = "",
    tag: Text = "",
    sort: Text = "-created_at",
    cursor: Cursor = None,
    fragment: Fragment = "",
) -> Response:
    """All studies."""
    found = service.list_studies(
        context,
        state=state or None,
        tag=tag or None,
        text=text or None,
        sort=sort,
        cursor=cursor or None,
        limit=ROWS,
    )
    following = None
    if found.next_cursor:
        query = {"text": text, "state": state, "tag": tag, "sort": sort}
        following = f"{root_of(request)}/?" + urlencode({**query, "cursor": found.next_cursor})
    page = StudiesPage(
        title="Studies",
        section="/",
        who=who,
        studies=[StudySummary.of(study) for study in found.items],
        states=STATES,
        sorts=SORTS,
        text=text,
        state=state,
        tag=tag,
        sort=sort,
        next=following,
    )
    return render(request, "studies_table.html" if fragment else "studies.html", page)


@router.get("/studies/{study_id}")
def show_study(
    request: Request,
    context: Ctx,
    who: Viewer,
    study_id: StudyId,
    state: Text = "",
    sort: Annotated[str, Query(max_length=255)] = "number",
    order: Order = "desc",
    filter: Filters = None,
    cursor: Cursor = None,
    fragment: Fragment = "",
) -> Response:
    """One study: progress, best trial, charts, trials."""
    # First, so that what happens while the page is put together is told again, not lost.
    last_event = service.newest_event(context, study_id=study_id)
    study = service.show_study(context, study_id)
    several = len(study.directions) > 1
    front = service.best(context, study_id, k=100) if several else []
    if fragment == "head":
        rows = _table(study, [], root_of(request), state, sort, order, filter or [], cursor, None)
    else:
        found = service.list_trials(
            context,
            study_id,
            state=state or None,
            sort=sort,
            order=order,
            filters=filters_of(filter or []),
            cursor=cursor or None,
            limit=ROWS,
        )
        rows = _table(
            study,
            found.items,
            root_of(request),
            state,
            sort,
            order,
            filter or [],
            cursor,
            found.next_cursor,
        )
    summary = StudySummary.of(study)
    tested = None
    if study.range_test and fragment in ("", "range"):
        tested = service.show_range(context, study_id)
    page = StudyPage(
        title=study.name,
        section="/",
        who=who,
        study=summary,
        best=study.best,
        front=front,
        table=rows,
        metrics=_metrics(study, rows.trials),
        last_event=last_event,
        spec_yaml=yaml.safe_dump(study.spec, sort_keys=False, allow_unicode=True),
        range=tested,
        range_curve=None if tested is None else RangeCurve.of(tested),
    )
    pieces = {"head": "study_head.html", "table": "trials_table.html", "range": "study_range.html"}
    return render(request, pieces.get(fragment, "study.html"), page)


@router.get("/studies/{study_id}/compare")
def compare(
    request: Request,
    context: Ctx,
    who: Viewer,
    study_id: StudyId,
    trials: Annotated[str, Query(max_length=200)],
) -> Response:
    """Trials side by side, with their differences marked and their curves overlaid."""
    study = service.show_study(context, study_id)
    found = [service.show_trial(context, trial_id) for trial_id in _ids(trials)]
    for trial in found:
        if trial.study_id != study_id:
            raise NotFound("trial", f"{trial.id} in study {study_id}")
    names = dict.fromkeys(name for trial in found for name in trial.config)
    rows = []
    for name in names:
        values = [trial.config.get(name) for trial in found]
        rows.append(ComparedRow(name, values, any(value != values[0] for value in values)))
    rows.sort(key=lambda row: not row.differs)
    page = ComparePage(
        title=f"Compare · {study.name}",
        section="/",
        who=who,
        study=StudySummary.of(study),
        trials=found,
        rows=rows,
    )
    return render(request, "compare.html", page)


@router.get("/trials/{trial_id}")
def show_trial(
    request: Request, context: Ctx, who: Viewer, trial_id: TrialId, fragment: Fragment = ""
) -> Response:
    """One trial: configuration, curves, why it ended."""
    trial = service.show_trial(context, trial_id)
    last_event = service.newest_event(context, study_id=trial.study_id)
    study = service.show_study(context, trial.study_id)
    page = TrialPage(
        title=f"Trial {trial.number} · {study.name}",
        section="/",
        who=who,
        study=StudySummary.of(study),
        trial=trial,
        worker=_worker(context, trial),
        last=trial.last_metrics,
        is_best=study.best is not None and study.best.id == trial.id,
        last_event=last_event,
    )
    return render(request, "trial_head.html" if fragment else "trial.html", page)


@router.get("/workers")
def show_workers(request: Request, context: Ctx, who: Viewer, fragment: Fragment = "") -> Response:
    """All workers, those that are present first."""
    workers = service.list_workers(context)
    workers = sorted(workers, key=lambda w: (w.state == "gone", -w.heartbeat_at.timestamp()))
    page = WorkersPage(
        title="Workers",
        section="/workers",
        who=who,
        workers=[WorkerSummary.of(worker) for worker in islice(workers, 500)],
        url=str(request.base_url).rstrip("/"),
    )
    return render(request, "workers_table.html" if fragment else "workers.html", page)


def _table(
    study: StudyView,
    trials: Sequence[TrialView],
    root: str,
    state: str,
    sort: str,
    order: str,
    filters: Sequence[str],
    cursor: str | None,
    next_cursor: str | None,
) -> TrialsTable:
    counts = study.counts
    return TrialsTable(
        study_id=study.id,
        base=f"{root}/studies/{study.id}",
        metric=study.objective[0].metric if study.objective else "value",
        trials=trials,
        params=_searched(study.spec, trials),
        best_id=study.best.id if study.best else None,
        state=state,
        sort=sort,
        order=order,
        cursor=cursor or None,
        next_cursor=next_cursor,
        total=getattr(counts, state) if state in TRIAL_STATES else counts.total,
        filters=filters,
    )


def _searched(spec: Mapping[str, Any], trials: Sequence[TrialView]) -> list[str]:
    """The hyperparameters that differ from trial to trial, in the study file's order."""
    space = spec.get("space")
    names = []
    if isinstance(space, Mapping):
        names = [
            name
            for name, entry in space.items()
            if isinstance(entry, Mapping) and entry.get("type") != "constant"
        ]
    return list(dict.fromkeys([*names, *(name for trial in trials for name in trial.params)]))


def _metrics(study: StudyView, trials: Sequence[TrialView]) -> list[str]:
    """Curves there are: the objectives, then whatever was measured last."""
    seen = [*trials, *([study.best] if study.best else [])]
    names = [objective.metric for objective in study.objective]
    return list(dict.fromkeys([*names, *(name for trial in seen for name in trial.last_metrics)]))


def _worker(context: Context, trial: TrialView) -> str | None:
    for worker in service.list_workers(context):
        if worker.id == trial.worker_id:
            return worker.name
    return None


def _ids(text: str) -> list[int]:
    parts = list(dict.fromkeys(text.split(",")))
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise InvalidInput("trials", "expected ids of trials, such as 3,17,25")
    if len(parts) > MOST_COMPARED:
        raise InvalidInput("trials", f"at most {MOST_COMPARED} trials fit side by side")
    return [int(part) for part in parts]
