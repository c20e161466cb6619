"""A study in a list, at a glance: how its best value fell, and on what it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from tuner.service.context import Context
from tuner.service.front import comparable
from tuner.service.overview import improvements
from tuner.service.thinning import extremes
from tuner.service.views import View
from tuner.storage import pictures, studies

POINTS = 40


class Sketch(View):
    """One study's course in a few points."""

    best: list[tuple[int, float]] = Field(
        description="Number and value of trials better than all before them, thinned."
    )
    trials: int = Field(description="Numbers run up to here.")
    devices: list[dict[str, Any]] = Field(description="Where its trials were trained last.")


def sketches(ctx: Context, study_ids: Sequence[int], *, seconds: float = 0.25) -> dict[int, Sketch]:
    """Sketches of these studies, as many as the time allows; asking again brings the others.

    One of a study that has not moved costs nothing: it is remembered. Where time is up, one of
    before stands in.

    Args:
        ctx: The service.
        study_ids: Whose, the first first; those that are gone are left out.
        seconds: How long to read what is not known yet; at least one is read.
    """
    end = ctx.now() + timedelta(seconds=seconds)
    with ctx.db.session() as session:
        known = studies.revisions(session, study_ids)
    found: dict[int, Sketch] = {}
    moved = []
    for study_id in filter(known.__contains__, study_ids):
        version, sketch = ctx.memo.last(("sketch", study_id)) or (None, None)
        if sketch is not None:
            found[study_id] = sketch
        if version != known[study_id][0]:
            moved.append(study_id)
    # Those that are not known at all come first: the others have something to show.
    for place, study_id in enumerate(sorted(moved, key=found.__contains__)):
        if place and ctx.now() > end:
            break
        revision, directions = known[study_id]
        found[study_id] = ctx.memo.get(
            ("sketch", study_id), revision, partial(_drawn, ctx, study_id, directions)
        )
    return found


def _drawn(ctx: Context, study_id: int, directions: Sequence[str]) -> Sketch:
    with ctx.db.session() as session:
        rows = pictures.outcomes(session, study_id, len(directions))
        devices = pictures.devices(session, study_id)
    best = improvements([row for row in rows if comparable(row)], directions[0])
    kept = extremes(np.array([value for _, value in best]), POINTS)
    return Sketch(
        best=[best[i] for i in kept],
        trials=rows[-1].number + 1 if rows else 0,
        devices=devices,
    )
