"""One trial: its configuration, its curves, who had it, why it ended, what it left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.dashboard.formats import telling
from api.dashboard.render import Viewer, render, render_pieces
from api.dashboard.views import Shown, StudySummary
from api.routers.parameters import TrialId
from api.security import Ctx, TokenFirst
from tuner import service
from tuner.service import Context, TrialEvent, TrialView

router = APIRouter(route_class=TokenFirst)

REASONS = {
    "diverged": "Diverged: its objective was no finite number any more.",
    "oom": "Out of memory, alone on its device too. Try a smaller batch size or model.",
    "lease_expired": "Its workers fell silent, each time; after so many attempts it was given up.",
    "cancelled": "Cancelled before it had measured anything.",
    "stopped": "Stopped by hand.",
}
"""What the words mean that the service gives as a reason; others speak for themselves."""


@dataclass(frozen=True)
class TrialPage(Shown):
    """One trial."""

    study: StudySummary
    trial: TrialView
    worker: str | None
    last: Mapping[str, float | None]
    """Its last measured metrics."""
    events: Sequence[TrialEvent]
    epochs_per_step: float
    is_best: bool
    last_event: int
    log: str | None
    """The address of what its script prints, below the root; None where it has none."""

    @property
    def digits(self) -> int:
        """Of what it measured: as many as tell its value from the best of the study."""
        return telling([self.trial.value, self.study.best_value], 4)

    @property
    def noise_text(self) -> str:
        """Why the noise scale has no value, in words; empty where it has one or is not reported."""
        scale, low = (self.last.get(f"noise_scale{end}") for end in ("", "_low"))
        if "noise_scale" not in self.last or (scale is not None and math.isfinite(scale)):
            return ""
        if low is not None and math.isfinite(low):
            return "The noise scale has no value: noise drowns the gradient's own square."
        return (
            "The noise scale was not measured: that takes whole batches that can be halved, and a "
            "model without BatchNorm, which makes samples depend on one another."
        )

    @property
    def reason_text(self) -> str:
        """Why it ended, in words."""
        reason = self.trial.reason or ""
        if reason.startswith("budget: "):
            return f"The study's budget of {reason.removeprefix('budget: ')} was used up."
        return REASONS.get(reason, reason)


@router.get("/trials/{trial_id}")
def show_trial(
    request: Request,
    context: Ctx,
    who: Viewer,
    trial_id: TrialId,
    fragment: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """One trial."""
    # First, so that what happens while the page is put together is told again, not lost.
    last_event = service.newest_event(context)
    trial = service.show_trial(context, trial_id)
    study = service.show_study(context, trial.study_id)
    events = service.trial_events(context, trial_id)
    page = TrialPage(
        title=f"Trial {trial.number} · {study.name}",
        section="/",
        who=who,
        study=StudySummary.of(study),
        trial=trial,
        worker=next((one.worker for one in reversed(events) if one.what == "leased"), None),
        last=trial.last_metrics,
        events=events,
        epochs_per_step=float(study.spec.get("eval_every") or 1.0),
        is_best=study.best is not None and study.best.id == trial.id,
        last_event=last_event,
        log=f"/api/v1/trials/{trial_id}/log" if _printing(context, study.task) else None,
    )
    if fragment:
        pieces = {"head": "trial_head.html", "events": "trial_events.html"}
        return render_pieces(request, page, pieces, fragment)
    return render(request, "trial.html", page)


def _printing(context: Context, task: str | None) -> bool:
    """Whether trials of this task are runs of a script, whose output is kept."""
    return any(one.kind == "script" for one in service.list_tasks(context) if one.name == task)
