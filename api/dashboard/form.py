"""The form of a new study, built from the catalogue; the server checks it as it is filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.dashboard.render import Viewer, render
from api.dashboard.views import Shown
from api.routers import catalogue
from api.security import Ctx, TokenFirst
from tuner import service
from tuner.errors import Forbidden
from tuner.service import datasets
from tuner.service.datasets import DatasetView

router = APIRouter(route_class=TokenFirst)

START: dict[str, Any] = {
    "name": "",
    "task": {"name": "digits"},
    "space": {
        "optimizer": "adamw",
        "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
        "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True},
        "schedule": {"type": "categorical", "choices": ["constant", "cosine", "linear"]},
    },
    "sampler": {"name": "auto"},
    "pruner": {"name": "auto"},
    "budget": {"trials": 64, "epochs": 20},
}


@dataclass(frozen=True)
class NewStudyPage(Shown):
    """The form of a new study."""

    catalogue: Mapping[str, Any]
    """Tasks, optimizers, schedules, samplers and pruners, as the REST catalogue has them."""
    datasets: Sequence[DatasetView] = ()
    """Uploads, for parameters that name files."""
    start: Mapping[str, Any] = field(default_factory=dict)
    """The study file that the form starts from."""


@router.get("/new")
def show_form(
    request: Request,
    context: Ctx,
    who: Viewer,
    clone: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> Response:
    """The form; ``clone`` starts it from another study."""
    if not who.may("submit"):
        raise Forbidden("this needs a token with the scope submit", scope="submit")
    start = START
    if clone is not None:
        spec = dict(service.show_study(context, clone).spec)
        start = {**spec, "name": f"{spec.get('name', 'study')} (copy)"}
    page = NewStudyPage(
        title="New study",
        section="/new",
        who=who,
        catalogue={
            "tasks": [entry.model_dump() for entry in catalogue.list_tasks(context)],
            "optimizers": [entry.model_dump() for entry in catalogue.list_optimizers()],
            "schedules": [entry.model_dump() for entry in catalogue.list_schedules()],
            "samplers": [entry.model_dump() for entry in catalogue.list_samplers()],
            "pruners": [entry.model_dump() for entry in catalogue.list_pruners()],
        },
        datasets=datasets.list_datasets(context),
        start=start,
    )
    return render(request, "new.html", page)
