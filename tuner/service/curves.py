"""Learning curves of many trials at once, thinned to what a picture can show."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field

from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.service.studies import plan_of
from tuner.service.views import View
from tuner.storage import measurements, pictures, studies


class Curve(View):
    """One trial's course; ``steps`` and ``values`` are as long as each other."""

    trial_id: int
    number: int
    state: str
    paused: bool
    steps: list[int]
    values: list[float]


class Curves(View):
    """Curves of one metric, by trial number."""

    study_id: int
    metric: str
    curves: list[Curve]
    trials: int = Field(description="Trials of the study, shown or not.")


def curves(
    ctx: Context,
    study_id: int,
    *,
    metric: str | None = None,
    numbers: Collection[int] | None = None,
    max_points: int = 200,
    max_trials: int = 300,
) -> Curves:
    """Curves of one metric, the first objective unless named.

    Args:
        ctx: The service.
        study_id: Whose trials.
        metric: Any reported metric.
        numbers: Which trials; None: those that run, the best, and the newest of the others.
        max_points: Points of a curve at most: evenly thinned, the last one always kept.
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
        primary = "value" if checked is None else checked.objectives[0].metric
        wanted = metric or primary
        total = study.next_number
        if numbers is not None:
            rows = pictures.brief(session, study_id, numbers=list(numbers)[:max_trials])
        else:
            rows = pictures.brief(session, study_id, most=max_trials, direction=study.directions[0])
        stored = measurements.columns(
            session, [row.id for row in rows], None if wanted == primary else wanted
        )
    out = []
    for row in sorted(rows, key=lambda row: row.number):
        steps, values = thinned(stored.get(row.id, {}), max_points)
        out.append(
            Curve(
                trial_id=row.id,
                number=row.number,
                state=row.state,
                paused=row.paused,
                steps=steps,
                values=values,
            )
        )
    return Curves(study_id=study_id, metric=wanted, curves=out, trials=total)


def thinned(points: dict[int, float], most: int) -> tuple[list[int], list[float]]:
    """At most ``most`` points, evenly spread over the steps; first and last are kept."""
    steps = sorted(points)
    if len(steps) > most:
        last = len(steps) - 1
        steps = [steps[round(i * last / (most - 1))] for i in range(most)]
    return steps, [points[step] for step in steps]
