"""The first page: all studies, at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.dashboard.formats import num, telling
from api.dashboard.render import Viewer, render, render_pieces, root_of
from api.dashboard.views import Shown, StudySummary, device_words
from api.routers.parameters import Cursor, StudyState
from api.security import Ctx, TokenFirst
from tuner import service
from tuner.service import Sketch

router = APIRouter(route_class=TokenFirst)

ROWS = 50
SORTS = (
    ("-created_at", "Newest first"),
    ("created_at", "Oldest first"),
    ("name", "By name"),
    ("-priority", "By priority"),
)
HEIGHT = 24.0
"""Of a sparkline, whose width counts as 100."""

Text = Annotated[str, Query(max_length=255)]
Fragment = Annotated[str, Query(max_length=100)]


@dataclass(frozen=True)
class Spark:
    """How the best value of a study fell, as points of a line in a box of 100 by ``HEIGHT``."""

    points: str
    text: str
    """The same in words."""


@dataclass(frozen=True)
class Listed:
    """A study in the list."""

    study: StudySummary
    digits: int
    """Of its best value: what tells it from those that were the best before it."""
    spark: Spark | None
    """None where there is nothing to draw yet, or no best: several objectives have a front."""
    device: str


@dataclass(frozen=True)
class StudiesPage(Shown):
    """All studies that match."""

    studies: Sequence[Listed]
    states: Sequence[str]
    """What the filter of states offers."""
    sorts: Sequence[tuple[str, str]]
    """What the order offers: key and words."""
    drawn: bool
    """Whether every study's course was there; asking again brings more of them."""
    text: str
    state: str
    tag: str
    sort: str
    next: str | None
    """The address of the next page."""

    @property
    def filtered(self) -> bool:
        """Whether an empty list may be the filter's doing."""
        return bool(self.text or self.state or self.tag)


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
    sketches = service.sketches(context, [study.id for study in found.items])
    following = None
    if found.next_cursor:
        query = {"text": text, "state": state, "tag": tag, "sort": sort}
        following = f"{root_of(request)}/?" + urlencode({**query, "cursor": found.next_cursor})
    page = StudiesPage(
        title="Studies",
        section="/",
        who=who,
        studies=[listed(StudySummary.of(study), sketches.get(study.id)) for study in found.items],
        states=get_args(StudyState),
        sorts=SORTS,
        drawn=all(study.id in sketches for study in found.items),
        text=text,
        state=state,
        tag=tag,
        sort=sort,
        next=following,
    )
    if fragment:
        return render_pieces(request, page, {"studies": "studies_table.html"}, fragment)
    return render(request, "studies.html", page)


def listed(study: StudySummary, sketch: Sketch | None) -> Listed:
    """A study with its sketch, as the template draws it."""
    if sketch is None:
        return Listed(study, 4, None, "")
    digits = telling([value for _, value in sketch.best], 4)
    devices = dict.fromkeys(device_words(device) for device in sketch.devices)
    drawn = spark(sketch, study.metric, digits) if study.objectives == 1 else None
    return Listed(study, digits, drawn, ", ".join(devices))


def spark(sketch: Sketch, metric: str, digits: int) -> Spark | None:
    """The course of the best value; by its logarithm where that is all above 0."""
    if len(sketch.best) < 2:
        return None
    values = [value for _, value in sketch.best]
    put = math.log if min(values) > 0 else float
    low, high = min(map(put, values)), max(map(put, values))
    height = (high - low) or 1.0

    def place(number: int, value: float) -> tuple[float, float]:
        x = 100.0 * number / max(sketch.trials - 1, 1)
        y = 2.0 + (HEIGHT - 4.0) * (1.0 - (put(value) - low) / height)
        return round(x, 1), round(y, 1)

    path: list[tuple[float, float]] = []
    for number, value in sketch.best:
        x, y = place(number, value)
        path += [(x, path[-1][1]), (x, y)] if path else [(x, y)]
    path.append((100.0, path[-1][1]))
    text = f"best {metric} from {num(values[0], digits)} to {num(values[-1], digits)}"
    return Spark(" ".join(f"{x:g},{y:g}" for x, y in path), text)
