"""Rows as Optuna's frozen trials: what the columns of a trial mean to Optuna, both ways.

JSON has no NaN and no infinity. Where a column's meaning is ours (values, metrics) they are the
strings ``nan``, ``inf`` and ``-inf``; where any JSON may stand (params and attributes), a string
could be a string, so there they are ``{"$float": "nan"}``, and who means that very thing by itself
has it kept as ``{"$float": ["nan"]}``.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Self
from typing import cast as typing_cast

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table, Text, case, cast, type_coerce

from tuner.storage.engine import dump_json
from tuner.storage.measurements import replace_from
from tuner.storage.models import Measurement, Trial

VALUE_METRIC = "value"
"""The objective's name in measurements of trials that Optuna itself runs."""
FLOAT_KEY = "$float"
CONSTRAINTS_KEY = "constraints"
"""The system attribute in which Optuna keeps how far a trial is outside its constraints."""

STATES = {state: TrialState[state.upper()] for state in ("waiting", "running", "complete")} | {
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
}

# Columns of the tables, not of the classes: without the ORM a statement costs a third.
_trials = typing_cast("Table", Trial.__table__)
_points = typing_cast("Table", Measurement.__table__)


@dataclass(frozen=True, slots=True)
class Stored:
    """What Optuna may know of a trial, as it is stored."""

    id: int
    number: int
    state: str
    attempt: int
    params: dict[str, Any]
    distributions: str
    """As text: trials of one study nearly all have the same, and so it is parsed once."""
    values: list[Any] | None
    constraint: float | None
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]
    started_at: datetime | None
    finished_at: datetime | None
    revision: int

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Self:
        """A trial from its columns."""
        known: dict[str, Any] = {name: columns.get(name) for name in cls.__slots__}
        known["distributions"] = dump_json(columns["distributions"])
        return cls(**known)

    def changed(self, columns: Mapping[str, Any], revision: int) -> Self:
        """The same with some columns changed."""
        known = {name: value for name, value in columns.items() if name in self.__slots__}
        if "distributions" in known:
            known["distributions"] = dump_json(known["distributions"])
        return replace(self, **known, revision=revision)


TRIAL_COLUMNS: tuple[Any, ...] = tuple(
    cast(_trials.c.distributions, Text).label("distributions")
    if one.name == "distributions"
    else _trials.c[one.name]
    for one in fields(Stored)
)
"""Of which a row is a :class:`Stored`."""

CURVE_COLUMNS: tuple[Any, ...] = (
    _points.c.trial_id,
    _points.c.attempt,
    _points.c.step,
    _points.c.value,
    # Parsed only where the number is not in its own column.
    type_coerce(case((_points.c.value.is_(None), _points.c.metrics)), _points.c.metrics.type).label(
        "metrics"
    ),
)
CURVE_ORDER = (_points.c.trial_id, _points.c.attempt, _points.c.step)


def frozen(row: Stored, curve: Mapping[int, float]) -> FrozenTrial:
    """The trial as Optuna has it; the caller owns it, all but its distributions."""
    system_attrs = decoded(row.system_attrs)
    if row.constraint is not None:
        system_attrs.setdefault(CONSTRAINTS_KEY, [row.constraint])
    return FrozenTrial(
        number=row.number,
        trial_id=row.id,
        state=STATES[row.state],
        value=None,
        values=None if row.values is None else [float(value) for value in row.values],
        params=decoded(row.params),
        distributions=dict(distributions_from(row.distributions)),
        user_attrs=decoded(row.user_attrs),
        system_attrs=system_attrs,
        intermediate_values=dict(curve),
        datetime_start=local(row.started_at),
        datetime_complete=local(row.finished_at),
    )


def curves(rows: Iterable[Any], metric: str) -> dict[int, dict[int, float]]:
    """Intermediate values by trial and step, from rows of ``CURVE_COLUMNS`` in ``CURVE_ORDER``."""
    found: dict[int, dict[int, float]] = {}
    last: tuple[int, int] | None = None
    for trial_id, attempt, step, value, metrics in rows:
        curve = found.setdefault(trial_id, {})
        if last != (trial_id, attempt):
            last = (trial_id, attempt)
            replace_from(curve, step)
        curve[step] = value if value is not None else float((metrics or {}).get(metric, "nan"))
    return found


def copied(trial: FrozenTrial) -> FrozenTrial:
    """A trial that its owner may change, without the cost of a deep copy of distributions."""
    twin = object.__new__(FrozenTrial)
    twin.__dict__.update(trial.__dict__)
    twin._params = dict(trial._params)
    twin._distributions = dict(trial._distributions)
    twin._values = None if trial._values is None else list(trial._values)
    twin._user_attrs = _copied_json(trial._user_attrs)
    twin._system_attrs = _copied_json(trial._system_attrs)
    twin.intermediate_values = dict(trial.intermediate_values)
    return twin


def encoded(value: object) -> Any:
    """JSON for any value Optuna stores: numbers that are not finite are marked as such.

    Raises:
        TypeError: It is not JSON.
    """
    try:
        plain = json.dumps(value, allow_nan=False)
    except ValueError:
        return _marked(value)
    return _marked(value) if FLOAT_KEY in plain else value


def decoded(value: Any) -> Any:
    """The value that :func:`encoded` was given; containers are new."""
    if isinstance(value, dict):
        if len(value) == 1 and FLOAT_KEY in value:
            marked = value[FLOAT_KEY]
            return {FLOAT_KEY: decoded(marked[0])} if isinstance(marked, list) else float(marked)
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return value


def distributions_to(distributions: Mapping[str, BaseDistribution]) -> dict[str, str]:
    """The column ``trials.distributions``: Optuna's own JSON form, as text, by parameter."""
    return {
        name: distribution_to_json(distribution) for name, distribution in distributions.items()
    }


@functools.lru_cache(maxsize=4096)
def distributions_from(text: str) -> Mapping[str, BaseDistribution]:
    """The distributions in the text of that column; shared, so not to be changed."""
    return {name: json_to_distribution(item) for name, item in json.loads(text).items()}


def written(distributions: str) -> dict[str, str]:
    """The text of that column as :func:`distributions_to` gave it."""
    known: dict[str, str] = json.loads(distributions)
    return known


def values_to(values: Sequence[float] | None) -> list[Any] | None:
    """The column ``trials.values``."""
    if values is None:
        return None
    return [float(value) if math.isfinite(value) else str(float(value)) for value in values]


def measured(trial_id: int, attempt: int, step: int, value: float, now: datetime) -> dict[str, Any]:
    """The row of a measurement that Optuna reports."""
    number = float(value)
    return {
        "trial_id": trial_id,
        "attempt": attempt,
        "step": step,
        "value": number if math.isfinite(number) else None,
        "metrics": {VALUE_METRIC: number},
        "created_at": now,
    }


def local(moment: datetime | None) -> datetime | None:
    """Optuna's times: local, without a zone."""
    return None if moment is None else moment.astimezone().replace(tzinfo=None)


def utc(moment: datetime | None) -> datetime | None:
    """Our times, from Optuna's."""
    return None if moment is None else moment.astimezone(UTC)


def _marked(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT_KEY: str(value)}
    if isinstance(value, dict):
        if len(value) == 1 and FLOAT_KEY in value:  # somebody's own, which is no mark
            return {FLOAT_KEY: [_marked(value[FLOAT_KEY])]}
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(item) for item in value]
    return value


def _copied_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied_json(item) for item in value]
    return value
