"""A study's finished trials in columns, thinned to what a picture can show, and what came since."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field
from sqlalchemy.orm import Session

from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.service.front import comparable, front_of
from tuner.service.studies import metrics_of, plan_of
from tuner.service.thinning import crowds, digits_of, short
from tuner.service.views import View
from tuner.spaces import Categorical
from tuner.spec import Checked
from tuner.storage import pictures, studies
from tuner.storage.measurements import finite
from tuner.storage.pictures import Outcome

BEST_KEPT = 4
"""A quarter of what is shown are the best trials: those are looked at most."""


class Axis(View):
    """One hyperparameter as an axis."""

    name: str
    log: bool = False
    choices: list[Any] | None = Field(None, description="Of a categorical one.")
    low: float | None = Field(None, description="Where the search begins.")
    high: float | None = Field(None, description="Where it ends.")


class Overview(View):
    """Finished trials by number, in columns as long as each other, rounded for a picture."""

    study_id: int
    revision: int = Field(description="Pass it on as ``since`` for what ends later.")
    metrics: list[str]
    directions: list[str]
    finished: int = Field(description="Finished trials of the study, shown or not.")
    whole: bool = Field(description="Whether this is all there is to show, or what came since.")
    ids: list[int]
    numbers: list[int]
    states: list[str]
    values: list[list[float | None]] = Field(description="A column an objective, where finite.")
    params: dict[str, list[Any]] = Field(description="A column a hyperparameter; null: inactive.")
    axes: list[Axis]
    best: list[tuple[int, float]] = Field(
        description="Number and first value of each complete trial better than all before it."
    )
    front: list[int] = Field(
        description="Ids of those no other beats in every objective; empty where there is one."
    )


def overview(
    ctx: Context, study_id: int, *, since: int | None = None, max_trials: int = 2000
) -> Overview:
    """The finished trials, at most ``max_trials`` of them.

    Of more, the best and the front stay, and of the others as many as keep the look of the cloud of
    values over trials. With ``since`` only trials that ended after that revision count, in ``best``
    and ``front`` too, so that they can be merged into what is known; unless they are too many.

    Raises:
        NotFound: No such study.
        InvalidInput: A bound is below 1.
    """
    if max_trials < 1:
        raise InvalidInput("max_trials", f"{max_trials} is below 1")
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        checked = plan_of(ctx, study)
        count = len(study.directions)
        rows = pictures.outcomes(session, study_id, count, since)
        whole = since is None or len(rows) > max_trials
        if whole and since is not None:
            rows = pictures.outcomes(session, study_id, count)
        standing = ctx.standings.of(session, [study])[study_id]
        usable = [row for row in rows if comparable(row)]
        front = front_of(usable, study.directions) if count > 1 else []
        shown = _shown(rows, study.directions[0], {row.id for row in front}, max_trials)
        params = pictures.params(session, [row.id for row in shown])
        axes = axes_of(session, study_id, checked)
    return Overview(
        study_id=study_id,
        revision=study.revision,
        metrics=metrics_of(checked, count),
        directions=study.directions,
        finished=standing.counts.finished,
        whole=whole,
        ids=[row.id for row in shown],
        numbers=[row.number for row in shown],
        states=[row.state for row in shown],
        values=[_rounded([finite(row.values[i]) for row in shown]) for i in range(count)],
        params={
            axis.name: _column([params.get(row.id, {}).get(axis.name) for row in shown], axis)
            for axis in axes
        },
        axes=axes,
        best=improvements(usable, study.directions[0]),
        front=[row.id for row in front],
    )


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    digits = digits_of(values)
    return [None if value is None else short(value, digits) for value in values]


def _column(values: list[Any], axis: Axis) -> list[Any]:
    # A choice stays as the axis has it, and a whole number as it is.
    if axis.choices is not None or not any(isinstance(value, float) for value in values):
        return values
    return _rounded(values)


def improvements(rows: Sequence[Outcome], direction: str) -> list[tuple[int, float]]:
    """Number and value of each row that looks better than all before it; all have values."""
    sign = 1.0 if direction == "minimize" else -1.0
    digits = digits_of(row.values[0] for row in rows)
    least = math.inf
    best = []
    for row in rows:
        value = float(row.values[0] or 0.0)
        if (looks := sign * short(value, digits)) < least:
            least = looks
            best.append((row.number, value))
    return best


def _shown(
    rows: Sequence[Outcome], direction: str, always: set[int], most: int
) -> Sequence[Outcome]:
    """What to show of ``rows``, by number."""
    if len(rows) <= most:
        return rows
    sign = 1.0 if direction == "minimize" else -1.0
    known = [finite(row.values[0]) for row in rows]
    sizes = np.array([math.inf if value is None else sign * value for value in known])
    first = np.array([row.id not in always for row in rows])
    ranked = np.lexsort((np.arange(len(rows)), sizes, first))
    kept, rest = ranked[: most // BEST_KEPT], np.sort(ranked[most // BEST_KEPT :])
    # Trials without a value are drawn nowhere.
    rest = rest[np.isfinite(sizes[rest])]
    chosen = crowds(rest.astype(np.float64), sizes[rest], most - len(kept)) if len(rest) else rest
    return [rows[i] for i in np.sort(np.concatenate([kept, rest[chosen]]))]


def axes_of(session: Session, study_id: int, checked: Checked | None) -> list[Axis]:
    """What is searched, in the study file's order; without one, what trials were drawn from."""
    if checked is None:
        return _axes_drawn(pictures.distributions(session, study_id))
    axes = []
    for name in checked.space.searched:
        parameter = checked.space.parameters[name]
        if isinstance(parameter, Categorical):
            axes.append(Axis(name=name, choices=list(parameter.choices)))
        else:
            axes.append(
                Axis(
                    name=name,
                    log=bool(getattr(parameter, "log", False)),
                    low=getattr(parameter, "low", None),
                    high=getattr(parameter, "high", None),
                )
            )
    return axes


def _axes_drawn(drawn: Iterable[Mapping[str, BaseDistribution]]) -> list[Axis]:
    """An axis for each name that any trial has, as wide as all the ranges that it was given."""
    kinds: dict[str, list[BaseDistribution]] = {}
    for trial in drawn:
        for name, kind in trial.items():
            kinds.setdefault(name, []).append(kind)
    return [_axis_drawn(name, kinds[name]) for name in sorted(kinds)]


def _axis_drawn(name: str, kinds: Sequence[BaseDistribution]) -> Axis:
    choices = [kind.choices for kind in kinds if isinstance(kind, CategoricalDistribution)]
    if choices:
        return Axis(name=name, choices=list(choices[0]))  # Optuna lets them be no others later
    numbers = [kind for kind in kinds if isinstance(kind, FloatDistribution | IntDistribution)]
    return Axis(
        name=name,
        log=all(kind.log for kind in numbers),
        low=min(kind.low for kind in numbers),
        high=max(kind.high for kind in numbers),
    )
