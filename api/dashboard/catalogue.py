"""What a study can name, for people: schedules with their courses, optimizers, samplers, tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dashboard.render import Viewer, render
from api.dashboard.views import Shown
from api.routers import catalogue
from api.routers.catalogue import Entry, RuleEntry, ScheduleEntry, TaskEntry
from api.security import Ctx, TokenFirst

router = APIRouter(route_class=TokenFirst)

HEIGHT = 40.0
"""Of a drawn course, whose width counts as 100."""


@dataclass(frozen=True)
class Course:
    """A schedule with the course of its multiplier, as points of a line."""

    entry: ScheduleEntry
    points: str
    """In a box of 100 by ``HEIGHT``; empty where it follows what is measured."""
    greatest: float
    """The multiplier at the box's top."""


@dataclass(frozen=True)
class CataloguePage(Shown):
    """Everything in the registries of this server."""

    schedules: Sequence[Course]
    optimizers: Sequence[RuleEntry]
    samplers: Sequence[Entry]
    pruners: Sequence[Entry]
    tasks: Sequence[TaskEntry]


@router.get("/catalogue")
def show_catalogue(request: Request, context: Ctx, who: Viewer) -> Response:
    """What a study can name."""
    page = CataloguePage(
        title="Catalogue",
        section="/catalogue",
        who=who,
        schedules=[course(entry) for entry in catalogue.list_schedules()],
        optimizers=catalogue.list_optimizers(),
        samplers=catalogue.list_samplers(),
        pruners=catalogue.list_pruners(),
        tasks=catalogue.list_tasks(context),
    )
    return render(request, "catalogue.html", page)


def course(entry: ScheduleEntry) -> Course:
    """A schedule, drawn from 0 to its greatest multiplier, or to 1."""
    greatest = max([1.0, *(multiplier for _, multiplier in entry.points)])
    path = [
        f"{100 * share:.1f},{(HEIGHT - 1) - (HEIGHT - 2) * multiplier / greatest:.1f}"
        for share, multiplier in entry.points
    ]
    return Course(entry, " ".join(path), greatest)
