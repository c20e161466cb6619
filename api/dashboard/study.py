"""One study: its progress, its best trial, charts, and the table of its trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import yaml
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import HTMLResponse, Response

from api.dashboard.compare import MOST
from api.dashboard.render import Viewer, pieces_of, render, root_of
from api.dashboard.table import STATES, Asked, TrialsTable, searched
from api.dashboard.views import Shown, StudySummary, Who, curves_of
from api.routers.parameters import Cursor, Filters, StudyId, filters_of
from api.security import Ctx, TokenFirst
from tuner import service
from tuner.errors import InvalidInput
from tuner.service import METHODS, Context, RangeEvidence, StudyView, TrialView
from tuner.service.memo import Memo

router = APIRouter(route_class=TokenFirst)

ROWS = 50
MOST_ON_FRONT = 100
PIECES = {"head": "study_head.html", "table": "trials_table.html", "range": "study_range.html"}
LEAST, GREATEST = "-1e308", "1e308"

Text = Annotated[str, Query(max_length=255)]


@dataclass(frozen=True)
class StudyPage(Shown):
    """One study."""

    study: StudySummary
    best: TrialView | None
    digits: int
    """Of values of the first objective, wherever the page says one; see :class:`TrialsTable`."""
    front: Sequence[TrialView]
    """The Pareto front, where there are several objectives, or the first of it."""
    front_size: int
    table: TrialsTable
    metrics: Sequence[str]
    """Curves that can be drawn."""
    objectives: Sequence[str]
    searched: Sequence[str]
    """Hyperparameters that differ from trial to trial."""
    evaluators: Sequence[tuple[str, str]]
    """How importances can be computed: key and words."""
    first: str
    """The address of the first picture's data, below the root."""
    last_event: int
    """Events up to here are in the page; the stream goes on from here."""
    spec: Mapping[str, Any]
    range: RangeEvidence | None
    """The range test before its first trial, if there is one."""
    range_curve: RangeCurve | None
    """Its picture, once it was measured."""
    most_compared: int = MOST

    @property
    def spec_yaml(self) -> str:
        """The study file; empty for a study that Optuna made."""
        if not self.spec:
            return ""
        return yaml.safe_dump(dict(self.spec), sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class RangeCurve:
    """The loss of a range test against the logarithm of its rates, 300 wide and 90 high."""

    path: str
    left: float
    width: float
    """The range that is searched."""

    @classmethod
    def of(cls, test: RangeEvidence) -> RangeCurve | None:
        """The curve, where anything was measured."""
        known = [(lr, y) for lr, y in zip(test.lr, test.loss, strict=True) if y is not None]
        if len(known) < 2 or test.low is None or test.high is None:
            return None
        first, last = math.log(test.lr[0]), math.log(test.lr[-1])
        low, start = min(y for _, y in known), known[0][1]
        # What diverges may leave the picture, or it would press all else to the floor.
        high = min(max(y for _, y in known), start + 0.5 * (start - low))

        def across(lr: float) -> float:
            return min(max(300 * (math.log(lr) - first) / (last - first), 0.0), 300.0)

        def down(y: float) -> float:
            return 85 - 80 * (min(y, high) - low) / ((high - low) or 1.0)

        path = " ".join(f"{across(lr):.1f},{down(y):.1f}" for lr, y in known)
        return cls(path, across(test.low), across(test.high) - across(test.low))


def asked(
    state: Text = "",
    sort: Annotated[str, Query(max_length=255)] = "number",
    order: Text = "desc",
    filter: Filters = None,
    columns: Annotated[str | None, Query(max_length=4000)] = None,
    cursor: Cursor = None,
    where: Text = "",
    low: Text = "",
    high: Text = "",
    exactly: Text = "",
) -> Asked:
    """What the address asks of the table; ``where`` and its company add one filter more."""
    filters = list(filter or [])
    if state and state not in STATES:
        raise InvalidInput("state", f"{state!r} is none of {', '.join(STATES)}")
    if where and (low.strip() or high.strip() or exactly.strip()):
        kept = exactly.strip() or f"{low.strip() or LEAST}..{high.strip() or GREATEST}"
        filters = [one for one in filters if not one.startswith(f"{where}:")] + [f"{where}:{kept}"]
    return Asked(
        state=state,
        sort=sort,
        order=order,
        filters=tuple(filters),
        columns=None if columns is None else tuple(key for key in columns.split(",") if key),
        cursor=cursor or None,
    )


@router.get("/studies/{study_id}")
def show_study(
    request: Request,
    context: Ctx,
    who: Viewer,
    study_id: StudyId,
    table: Annotated[Asked, Depends(asked)],
    fragment: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """One study."""
    # First, so that what happens while the page is put together is told again, not lost.
    last_event = service.newest_event(context, study_id=study_id)

    def page() -> StudyPage:
        return _page(request, context, who, study_id, table, last_event, fragment)

    if not fragment:
        return render(request, "study.html", page())
    # All that look at the study hear of a change at once, and ask for the same pieces.
    shared: Memo = request.app.state.pieces
    key = (study_id, fragment, table, who.may("submit"), root_of(request))
    moment = int(context.now().timestamp())  # ages in words are true for about as long
    html = shared.get(
        key, (last_event, moment), lambda: pieces_of(request, page(), PIECES, fragment)
    )
    return HTMLResponse(html)


def _page(
    request: Request,
    context: Context,
    who: Who,
    study_id: int,
    table: Asked,
    last_event: int,
    fragment: str,
) -> StudyPage:
    study = service.show_study(context, study_id)
    several = len(study.directions) > 1
    front = service.best(context, study_id) if several else []
    rows = _table(request, context, study, table, empty=fragment in ("head", "range"))
    tested = None
    if study.range_test and fragment in ("", "range"):
        tested = service.show_range(context, study_id)
    return StudyPage(
        title=study.name,
        section="/",
        who=who,
        study=StudySummary.of(study),
        best=study.best,
        digits=rows.digits,
        front=front[:MOST_ON_FRONT],
        front_size=len(front),
        table=rows,
        metrics=_metrics(study, rows.trials),
        objectives=[one.metric for one in study.objective],
        searched=searched(study.spec, rows.trials),
        evaluators=[(key, method.title) for key, method in METHODS.items()],
        first=_first(study),
        last_event=last_event,
        spec=study.spec,
        range=tested,
        range_curve=None if tested is None else RangeCurve.of(tested),
    )


def _first(study: StudyView) -> str:
    """What the first chart asks for; the page begins to load it before any script runs."""
    metric = study.objective[0].metric if study.objective else "value"
    return f"/api/v1/studies/{study.id}/curves?" + urlencode({"metric": metric, "x": "step"})


def _table(
    request: Request, context: Context, study: StudyView, asked: Asked, *, empty: bool
) -> TrialsTable:
    trials: Sequence[TrialView] = ()
    following = None
    if not empty:
        found = service.list_trials(
            context,
            study.id,
            state=asked.state or None,
            sort=asked.sort,
            order=asked.order,
            filters=filters_of(asked.filters),
            cursor=asked.cursor,
            limit=ROWS,
        )
        trials, following = found.items, found.next_cursor
    workers: dict[int, str] = {}
    if asked.columns is not None and "worker" in asked.columns:
        workers = service.worker_names(context, {t.worker_id for t in trials if t.worker_id})
    base = f"{root_of(request)}/studies/{study.id}"
    return TrialsTable.of(study, trials, following, asked, base=base, workers=workers)


def _metrics(study: StudyView, trials: Sequence[TrialView]) -> list[str]:
    """Curves there are: the objectives, then whatever was measured last."""
    seen: list[Any] = [*trials, *([study.best] if study.best else [])]
    names = [objective.metric for objective in study.objective] or ["value"]
    return curves_of([*names, *(name for trial in seen for name in trial.last_metrics)])
