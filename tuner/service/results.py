"""What a study has found: tables to take away, Optuna's figures."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy.orm import Session

from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.service.front import comparable, front_of
from tuner.service.overview import improvements
from tuner.service.studies import metrics_of, plan_of
from tuner.storage import measurements, pictures, studies, trials
from tuner.storage.optuna.history import directions
from tuner.storage.pictures import Outcome
from tuner.storage.studies import StudyRow

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "json", "parquet")
MOST_DRAWN = 2000
"""Trials of a figure; 100,000 took two minutes and gigabytes, and no browser draws them."""
MOST_IN_GRIDS = 300
"""Trials of contours, whose grids have a line for each: 2,000 made 260 MB."""


def export(ctx: Context, study_id: int, format: str = "csv") -> bytes:
    """All trials as a table: a row each, with params, values and the last metrics.

    Raises:
        NotFound: No such study.
        InvalidInput: The format is none of csv, json, parquet.
    """
    if format not in FORMATS:
        raise InvalidInput("format", f"{format!r} is none of {', '.join(FORMATS)}")
    frame = trials_frame(ctx, study_id)
    if format == "csv":
        return frame.to_csv(index=False, lineterminator="\n").encode()
    if format == "parquet":
        # A column of several types (choices such as 1 and "one") becomes text; others keep theirs.
        for name in frame.columns:
            kinds = {type(v) for v in frame[name].dropna()}
            if frame[name].dtype == object and len(kinds) > 1:
                frame[name] = frame[name].map(lambda v: v if v is None else str(v))
        sink = io.BytesIO()
        frame.to_parquet(sink, index=False)
        return sink.getvalue()
    columns = [map(_plain, frame[name].tolist()) for name in frame.columns]
    # A line a trial: what indents is Python's own encoder, many times as slow.
    lines = [
        json.dumps(dict(zip(frame.columns, row, strict=True)), allow_nan=False)
        for row in zip(*columns, strict=True)
    ]
    return ("[" + ",\n ".join(lines) + "]").encode()


def _plain(value: Any) -> Any:
    """A cell as JSON: missing is null, an infinity its name, a time its ISO form."""
    if value != value:  # noqa: PLR0124  (NaN, and what pandas has for no time)
        return None
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else value


def trials_frame(ctx: Context, study_id: int) -> pd.DataFrame:
    """All trials of a study as a table, by number.

    Raises:
        NotFound: No such study.
    """
    import pandas as pd  # noqa: PLC0415  (a third of a second to load)

    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        checked = plan_of(ctx, study)
        rows = sorted(trials.of_study(session, study_id), key=lambda row: row.number)
        last = measurements.last_of_study(session, study_id)
    metrics = metrics_of(checked, len(study.directions))
    table = []
    for row in rows:
        config = row.params if checked is None else checked.space.fill(row.params)
        values = row.values if row.state in ("complete", "pruned") else None
        point = last.get(row.id)
        record: dict[str, Any] = {
            "number": row.number,
            "trial_id": row.id,
            "state": "paused" if row.paused else row.state,
            "reason": row.reason,
        }
        for i, metric in enumerate(metrics):
            record[metric] = None if values is None else measurements.number(values[i])
        record.update({f"params.{name}": value for name, value in config.items()})
        if point is not None:
            told = measurements.numbers(point.metrics)
            record.update({f"metrics.{name}": value for name, value in told.items()})
        record.update(
            step=row.step,
            origin=row.origin,
            attempt=row.attempt,
            seed=row.seed,
            device_seconds=row.device_seconds,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )
        table.append(record)
    return pd.DataFrame(table)


def frozen_trials(ctx: Context, study_id: int) -> list[FrozenTrial]:
    """The study's trials in Optuna's form, by number.

    Raises:
        NotFound: No such study.
    """
    with ctx.db.session() as session:
        studies.get(session, study_id)
        return pictures.frozen_study(session, study_id)


def in_memory(name: str, stated: Sequence[str], known: Iterable[FrozenTrial]) -> optuna.Study:
    """A study in memory with these trials, in this order, for Optuna's evaluators and figures."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        made = optuna.create_study(directions=directions([*stated]), study_name=name)
    finally:
        optuna.logging.set_verbosity(verbosity)
    made.add_trials(known)
    return made


def _drawn(session: Session, study: StudyRow, most: int) -> tuple[list[FrozenTrial], int]:
    """Trials for a figure by number, and how many have finished.

    Of more than ``most`` as many evenly over their numbers, besides those that were the best until
    then, and the front.
    """
    rows = pictures.outcomes(session, study.id, len(study.directions))
    if len(rows) > most:
        shown = _sampled(rows, study.directions, most)
        known = pictures.frozen_trials(session, shown, with_curves=True)
    else:
        known = pictures.frozen_study(session, study.id)
    # One that was cancelled before it began shows nothing, and Optuna takes none without a start.
    finished = [t for t in known if t.state.is_finished() and t.datetime_start is not None]
    return finished, len(rows)


def _sampled(rows: Sequence[Outcome], stated: Sequence[str], most: int) -> set[int]:
    """The ids of those of many finished trials that are drawn."""
    usable = [row for row in rows if comparable(row)]
    lead = {number for number, _ in improvements(usable, stated[0])}
    front = front_of(usable, stated) if len(stated) > 1 else []
    even = (rows[k * len(rows) // most] for k in range(most))
    return {
        *(row.id for row in even),
        *(row.id for row in usable if row.number in lead),
        *(row.id for row in front[:most]),
    }


Plot = Callable[[optuna.Study, str], Any]


def _one(name: str) -> Plot:
    def plot(study: optuna.Study, metric: str) -> Any:
        function = getattr(optuna.visualization, f"plot_{name}")
        if len(study.directions) > 1:
            return function(study, target=lambda t: t.values[0], target_name=metric)
        return function(study, target_name=metric)

    return plot


FIGURES: dict[str, Plot] = {
    "history": _one("optimization_history"),
    "parallel": _one("parallel_coordinate"),
    "slice": _one("slice"),
    "contour": _one("contour"),
    "edf": _one("edf"),
    "rank": _one("rank"),
    "intermediate": lambda study, _: optuna.visualization.plot_intermediate_values(study),
    "timeline": lambda study, _: optuna.visualization.plot_timeline(study),
    "pareto": lambda study, _: optuna.visualization.plot_pareto_front(study),
}


def figure(ctx: Context, study_id: int, name: str) -> dict[str, Any]:
    """One of Optuna's figures as Plotly's JSON; of a large study, of a sample of its trials.

    Raises:
        NotFound: No such study.
        InvalidInput: No such figure, or the study has not what it shows.
    """
    if name not in FIGURES:
        raise InvalidInput("name", f"{name!r} is none of {', '.join(FIGURES)}")
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        checked = plan_of(ctx, study)
    if name == "pareto" and not 2 <= len(study.directions) <= 3:
        raise InvalidInput("name", "a Pareto front needs two or three objectives")
    most = MOST_IN_GRIDS if name == "contour" else MOST_DRAWN
    with ctx.db.session() as session:
        known, count = _drawn(session, study, most)
    copy = in_memory(study.name, study.directions, known)
    metric = metrics_of(checked)[0]
    with warnings.catch_warnings():
        # Optuna warns of figures with little in them; they are drawn all the same.
        warnings.simplefilter("ignore")
        try:
            drawn = FIGURES[name](copy, metric)
        except (ValueError, OverflowError) as error:
            raise InvalidInput("name", f"Optuna cannot draw these trials: {error}") from error
    if count > most:
        shown = f"{len(known)} of {count} trials, numbered anew"
        drawn.update_layout(title_text=f"{drawn.layout.title.text} ({shown})")
    out: dict[str, Any] = json.loads(drawn.to_json())
    return out
