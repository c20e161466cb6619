"""Learning curves of many trials at once, thinned to what a picture can show."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.service.studies import metrics_of, plan_of
from tuner.service.thinning import LEAST_DIGITS, MOST_DIGITS, digits_of, extremes, short
from tuner.service.views import View
from tuner.storage import measurements, pictures, studies
from tuner.storage.measurements import Line

Progress = Literal["step", "epochs", "samples", "seconds"]


class Curve(View):
    """One trial's course; ``x`` and ``values`` are as long as each other."""

    trial_id: int
    number: int
    state: str
    paused: bool
    params: dict[str, Any] = Field(description="Suggested values, to tell the curve by.")
    x: list[float]
    values: list[float]


class Curves(View):
    """Curves of one metric, by trial number, rounded to what a picture can show."""

    study_id: int
    metric: str
    x: Progress
    curves: list[Curve]
    trials: int = Field(description="Trials of the study, shown or not.")
    measured: int = Field(description="Points of these curves that are stored.")
    shown: int = Field(description="Points of these curves that are here.")


def curves(
    ctx: Context,
    study_id: int,
    *,
    metric: str | None = None,
    x: Progress = "step",
    numbers: Collection[int] | None = None,
    max_points: int = 200,
    max_trials: int = 300,
) -> Curves:
    """Curves of one metric, the first objective unless named.

    Args:
        ctx: The service.
        study_id: Whose trials.
        metric: Any reported metric.
        x: What they run over: evaluation periods, epochs, training samples, or device seconds.
        numbers: Which trials; None: those that run, the best, and the newest of the others.
        max_points: Points of a curve at most: of more, the least and greatest of each stretch.
        max_trials: Curves at most.

    Raises:
        NotFound: No such study.
        InvalidInput: A bound is below 1.
    """
    if max_points < 2 or max_trials < 1:
        raise InvalidInput("max_points", "at least 2 points of at least 1 trial")
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        checked = plan_of(ctx, study)
        primary = metrics_of(checked)[0]
        wanted = metric or primary
        rows = pictures.brief(
            session,
            study_id,
            numbers=None if numbers is None else list(numbers)[:max_trials],
            most=max_trials,
            direction=study.directions[0],
        )
        stored = measurements.lines(
            session,
            [row.id for row in rows],
            None if wanted == primary else wanted,
            "step" if x == "epochs" else x,
        )
    unit = 1.0 if x != "epochs" or checked is None else checked.spec.eval_every
    counted = LEAST_DIGITS if x == "seconds" else MOST_DIGITS
    precise = digits_of(value for line in stored.values() for value in line.values)
    out = []
    for row in sorted(rows, key=lambda row: row.number):
        line = stored.get(row.id) or Line([], [], [])
        kept = extremes(np.array(line.values), max_points)
        out.append(
            Curve(
                trial_id=row.id,
                number=row.number,
                state=row.state,
                paused=row.paused,
                params={k: short(v) if isinstance(v, float) else v for k, v in row.params.items()},
                x=[short(unit * line.x[i], counted) for i in kept],
                values=[short(line.values[i], precise) for i in kept],
            )
        )
    return Curves(
        study_id=study_id,
        metric=wanted,
        x=x,
        curves=out,
        trials=study.next_number,
        measured=sum(len(line.values) for line in stored.values()),
        shown=sum(len(curve.values) for curve in out),
    )
