"""The objective over two hyperparameters: what trials measured, smoothed where there are some."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.service.overview import Axis, axes_of
from tuner.service.studies import metrics_of, plan_of
from tuner.service.thinning import digits_of, short
from tuner.service.views import View
from tuner.storage import pictures, studies
from tuner.storage.studies import StudyRow

Floats = NDArray[np.float64]
CELLS = 32
UNIFORM_SPREAD = 0.29
"""The standard deviation of a uniform on [0, 1]: searched values are spread about like that."""
WORST = 0.9
"""Trials beyond this quantile share the worst colour, or one that diverged would take them all."""
GOOD_SECONDS = 15.0

Cell = list[float] | str | float | bool | None


class Landscape(View):
    """A field of colours over two hyperparameters; cells far from every trial are null."""

    study_id: int
    metric: str
    x: str
    y: str
    columns: list[Cell] = Field(description="A choice, or where a cell begins and ends.")
    rows: list[Cell]
    shades: list[list[float | None]] = Field(description="By row, then column: 0 worst, 1 best.")
    best: float | None = Field(description="The value of shade 1.")
    worst: float | None = Field(description="The value of shade 0, and of all that is worse.")
    trials: int = Field(description="Complete trials that it is made of.")


@dataclass(frozen=True)
class _Side:
    """One axis cut into cells, and where the trials lie on it; -1: not on it at all."""

    cells: list[Cell]
    places: NDArray[np.intp]
    smooth: bool


def landscape(ctx: Context, study_id: int, x: str, y: str) -> Landscape:
    """The first objective over two hyperparameters.

    Each cell is the mean of the trials around it, weighted by a normal that is narrower the more
    trials there are (Scott's rule); choices of a categorical one are not smoothed over.

    Raises:
        NotFound: No such study.
        InvalidInput: A name is no searched hyperparameter, or both are the same.
    """
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
    return ctx.memo.get(
        ("landscape", study_id, x, y),
        study.revision,
        lambda: _computed(ctx, study, x, y),
        good_seconds=GOOD_SECONDS,
    )


def _computed(ctx: Context, study: StudyRow, x: str, y: str) -> Landscape:
    checked = plan_of(ctx, study)
    with ctx.db.session() as session:
        rows = pictures.outcomes(session, study.id, 1)
        complete = {row.id: row.values[0] for row in rows if row.state == "complete"}
        values = {i: v for i, v in complete.items() if v is not None and math.isfinite(v)}
        params = pictures.params_of_complete(session, study.id)
        axes = {axis.name: axis for axis in axes_of(session, study.id, checked)}
    for field, name in (("x", x), ("y", y)):
        if name not in axes:
            raise InvalidInput(field, f"{name!r} is none of {', '.join(axes) or 'no parameter'}")
    if x == y:
        raise InvalidInput("y", "is the same as x")
    ids = [i for i in values if {x, y} <= params.get(i, {}).keys()]
    across = _side(axes[x], [params[i][x] for i in ids])
    up = _side(axes[y], [params[i][y] for i in ids])
    inside = (across.places >= 0) & (up.places >= 0)
    told = np.array([values[i] for i in ids])[inside]
    minimize = study.directions[0] == "minimize"
    goodness, best, worst = _goodness(told, minimize)
    shades = _smoothed(across, up, inside, goodness)
    return Landscape(
        study_id=study.id,
        metric=metrics_of(checked)[0],
        x=x,
        y=y,
        columns=across.cells,
        rows=up.cells,
        shades=[[None if math.isnan(v) else round(float(v), 3) for v in row] for row in shades],
        best=best,
        worst=worst,
        trials=len(told),
    )


def _side(axis: Axis, values: Sequence[Any]) -> _Side:
    if axis.choices is not None:
        known = {repr(choice): i for i, choice in enumerate(axis.choices)}
        places = np.array([known.get(repr(v), -1) for v in values], dtype=np.intp)
        return _Side(list(axis.choices), places, smooth=False)
    found = np.array([float(v) for v in values])
    low = axis.low if axis.low is not None else float(found.min(initial=math.inf))
    high = axis.high if axis.high is not None else float(found.max(initial=-math.inf))
    if not low < high:
        low, high = (low - 0.5, low + 0.5) if math.isfinite(low) else (0.0, 1.0)
    log = axis.log and low > 0
    ends = np.geomspace(low, high, CELLS + 1) if log else np.linspace(low, high, CELLS + 1)
    places = np.clip(np.searchsorted(ends, found, side="right") - 1, 0, CELLS - 1)
    digits = digits_of(ends)
    cells: list[Cell] = [[short(a, digits), short(b, digits)] for a, b in pairwise(ends)]
    return _Side(cells, places, smooth=True)


def _goodness(values: Floats, minimize: bool) -> tuple[Floats, float | None, float | None]:
    """Values as shares from the worst to the best, and those two."""
    if not len(values):
        return values, None, None
    best = float(values.min() if minimize else values.max())
    worst = float(np.quantile(values, WORST if minimize else 1 - WORST))
    digits = digits_of(values)
    told = short(best, digits), short(worst, digits)
    if best == worst:
        return np.ones_like(values), *told
    return np.clip((values - worst) / (best - worst), 0.0, 1.0), *told


def _smoothed(across: _Side, up: _Side, inside: NDArray[np.bool_], goodness: Floats) -> Floats:
    """The mean goodness around each cell, ``[rows, columns]``; NaN where no trial is near."""
    shape = (len(up.cells), len(across.cells))
    places = (up.places[inside], across.places[inside])
    count, total = np.zeros(shape), np.zeros(shape)
    np.add.at(count, places, 1.0)
    np.add.at(total, places, goodness)
    width = CELLS * UNIFORM_SPREAD * max(len(goodness), 1) ** (-1 / 6)
    left, right = _kernel(up, width), _kernel(across, width)
    weight, mean = left @ count @ right, left @ total @ right
    # One trial alone colours what lies within two widths of it.
    near = weight > math.exp(-2.0) * (1 - 1e-9)
    return np.where(near, mean / np.where(near, weight, 1.0), np.nan)


def _kernel(side: _Side, width: float) -> Floats:
    """How much each cell counts for each other one, itself 1."""
    places = np.arange(len(side.cells))
    if not side.smooth:
        return np.eye(len(places))
    return np.asarray(np.exp(-(((places[:, None] - places) / width) ** 2) / 2))
