"""A study's finished trials in columns, thinned to what a picture can show."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.service.studies import plan_of
from tuner.service.views import View
from tuner.spaces import Categorical
from tuner.storage import measurements, pictures, studies


class Axis(View):
    """One hyperparameter as an axis."""

    name: str
    log: bool = False
    choices: list[Any] | None = Field(None, description="Of a categorical one.")


class Overview(View):
    """Finished trials by number; the columns are as long as each other."""

    study_id: int
    metric: str
    direction: str
    finished: int = Field(description="Finished trials of the study, shown or not.")
    ids: list[int]
    numbers: list[int]
    states: list[str]
    values: list[float | None] = Field(description="The first objective, where it is finite.")
    params: dict[str, list[Any]] = Field(description="A column a hyperparameter; null: inactive.")
    axes: list[Axis]
    best: list[tuple[int, float]] = Field(
        description="Number and value of each complete trial that was better than all before it."
    )


def overview(ctx: Context, study_id: int, *, max_trials: int = 2000) -> Overview:
    """The finished trials, at most ``max_trials`` of them.

    Of more the best half stays and the others are taken evenly over their numbers; ``best`` is of
    all of them.

    Raises:
        NotFound: No such study.
        InvalidInput: A bound is below 1.
    """
    if max_trials < 1:
        raise InvalidInput("max_trials", f"{max_trials} is below 1")
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        checked = plan_of(ctx, study)
        rows = pictures.finished(session, study_id)
    minimize = study.directions[0] == "minimize"
    sign = 1.0 if minimize else -1.0
    known: dict[int, float] = {}
    best: list[tuple[int, float]] = []
    for row in rows:
        value = measurements.number(row.values[0]) if row.values else None
        if value is None or not math.isfinite(value):
            continue
        known[row.id] = value
        better = not best or sign * value < sign * best[-1][1]
        if row.state == "complete" and (row.constraint or 0.0) <= 0 and better:
            best.append((row.number, value))
    shown = rows
    if len(rows) > max_trials:
        order = sorted(rows, key=lambda row: sign * known.get(row.id, sign * math.inf))
        kept = order[: max_trials // 2]
        rest = sorted(order[max_trials // 2 :], key=lambda row: row.number)
        wanted = max_trials - len(kept)
        kept += [rest[i * len(rest) // wanted] for i in range(wanted)]
        shown = sorted(kept, key=lambda row: row.number)
    axes = []
    if checked is not None:
        for name in checked.space.searched:
            parameter = checked.space.parameters[name]
            if isinstance(parameter, Categorical):
                axes.append(Axis(name=name, choices=list(parameter.choices)))
            else:
                axes.append(Axis(name=name, log=bool(getattr(parameter, "log", False))))
    else:
        axes = [Axis(name=name) for name in sorted({n for row in shown for n in row.params})]
    return Overview(
        study_id=study_id,
        metric="value" if checked is None else checked.objectives[0].metric,
        direction=study.directions[0],
        finished=len(rows),
        ids=[row.id for row in shown],
        numbers=[row.number for row in shown],
        states=[row.state for row in shown],
        values=[known.get(row.id) for row in shown],
        params={axis.name: [row.params.get(axis.name) for row in shown] for axis in axes},
        axes=axes,
        best=best,
    )
