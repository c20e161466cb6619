"""Pages that ask before something is done; with JavaScript a dialog asks instead."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dashboard.render import Viewer, render, root_of
from api.dashboard.views import Shown
from api.routers.parameters import StudyId, TrialId, WorkerId
from api.security import Ctx, Submitter, TokenFirst
from tuner import service
from tuner.errors import NotFound

router = APIRouter(route_class=TokenFirst)


@dataclass(frozen=True)
class ConfirmPage(Shown):
    """A question, and the form that does what it asks about."""

    about: str
    """study, trial or worker."""
    name: str
    """Which one, for a person."""
    path: str
    """Where the form posts."""
    back: str
    """Where whoever says no goes."""

    @property
    def action(self) -> str:
        """What is to be done: the last part of the path."""
        return self.path.rpartition("/")[2]


@router.get("/studies/{study_id}/stop")
@router.get("/studies/{study_id}/cancel")
@router.get("/studies/{study_id}/delete")
def ask_of_study(
    request: Request, context: Ctx, who: Viewer, _may: Submitter, study_id: StudyId
) -> Response:
    """Whether to stop, cancel or delete a study."""
    name = service.show_study(context, study_id).name
    return _page(request, who, "study", name, f"/studies/{study_id}")


@router.get("/trials/{trial_id}/stop")
def ask_of_trial(
    request: Request, context: Ctx, who: Viewer, _may: Submitter, trial_id: TrialId
) -> Response:
    """Whether to stop a trial."""
    number = service.show_trial(context, trial_id).number
    return _page(request, who, "trial", str(number), f"/trials/{trial_id}")


@router.get("/workers/{worker_id}/drain")
def ask_of_worker(
    request: Request, context: Ctx, who: Viewer, _may: Submitter, worker_id: WorkerId
) -> Response:
    """Whether to drain a worker.

    Raises:
        NotFound: No such worker.
    """
    for worker in service.list_workers(context):
        if worker.id == worker_id:
            return _page(request, who, "worker", worker.name, "/workers")
    raise NotFound("worker", worker_id)


def _page(request: Request, who: Viewer, about: str, name: str, back: str) -> Response:
    path = request.url.path.removeprefix(root_of(request))
    section = "/workers" if about == "worker" else "/"
    return render(request, "confirm.html", ConfirmPage(name, section, who, about, name, path, back))
