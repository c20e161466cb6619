"""The table of a study's trials: the columns there are and those chosen, and what changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, get_args
from urllib.parse import urlencode

from api.dashboard.formats import DASH, duration, num, telling
from api.routers.parameters import TrialState, filter_name
from tuner.service import StudyView, TrialView

Text = Callable[[TrialView], str]
STATES: Sequence[str] = get_args(TrialState)


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    key: str
    """What the address calls it."""
    title: str
    text: Text
    sort: str | None = None
    """What the server sorts it by; None: it cannot."""
    number: bool = False
    kind: str = ""
    """``state`` and ``time`` are drawn in their own way."""
    moment: Callable[[TrialView], datetime | None] = field(default=lambda _: None)
    """Of a time."""
    standard: bool = False
    """Whether it is shown unless somebody chooses otherwise."""


def columns_of(
    study: StudyView, trials: Iterable[TrialView], workers: Mapping[int, str], digits: int
) -> list[Column]:
    """Every column that this study's trials can fill, in the order of the table.

    Args:
        study: The study.
        trials: Those shown, whose measured metrics become columns.
        workers: Names of workers by id.
        digits: Of the first objective's values.
    """
    trials = list(trials)
    objectives = [one.metric for one in study.objective] or ["value"]
    measured = dict.fromkeys(name for trial in trials for name in trial.last_metrics)
    return [
        Column("state", "State", lambda t: t.state, "state", kind="state", standard=True),
        *(
            Column(
                f"value.{i}",
                name,
                _numbers(trials, partial(_objective, i), 4) if i else _value(digits),
                "value" if i == 0 else f"value.{i}",
                number=True,
                standard=True,
            )
            for i, name in enumerate(objectives)
        ),
        Column("step", "Step", lambda t: f"{t.step}/{t.max_step}", "step", True, standard=True),
        *(
            Column(
                f"params.{name}",
                name,
                _numbers(trials, lambda t, n=name: t.params.get(n)),  # type: ignore[misc]  # n is bound
                f"params.{name}",
                number=_numeric(study.spec, name),
                standard=True,
            )
            for name in searched(study.spec, trials)
        ),
        *(
            Column(
                f"metrics.{name}",
                f"last {name}",
                _numbers(trials, lambda t, n=name: t.last_metrics.get(n), 4),  # type: ignore[misc]  # n is bound
                number=True,
            )
            for name in measured
        ),
        Column("samples", "Samples", lambda t: num(t.samples), number=True),
        Column(
            "device_seconds",
            "Device time",
            lambda t: duration(t.device_seconds),
            "device_seconds",
            number=True,
            standard=True,
        ),
        Column("duration", "Wall time", lambda t: duration(t.duration_seconds), number=True),
        Column("attempt", "Attempt", lambda t: str(t.attempt), "attempt", True),
        Column("origin", "Origin", lambda t: t.origin),
        Column("worker", "Worker", lambda t: workers.get(t.worker_id or 0, DASH)),
        Column("seed", "Seed", lambda t: str(t.seed), number=True),
        _time("created", "Created", lambda t: t.created_at, "created_at"),
        _time("started", "Started", lambda t: t.started_at),
        _time("finished", "Finished", lambda t: t.finished_at),
        Column("reason", "Why it ended", lambda t: t.reason or "", standard=True),
    ]


def _objective(which: int, trial: TrialView) -> float | None:
    values = trial.values or ()
    return values[which] if which < len(values) else None


def _value(digits: int) -> Text:
    return lambda trial: num(_objective(0, trial), digits)


def _numbers(
    trials: Iterable[TrialView], value: Callable[[TrialView], Any], least: int = 3
) -> Text:
    """What a column shows of a value: with as many digits as tell those of the page apart."""
    digits = telling(map(value, trials), least)
    return lambda trial: num(value(trial), digits)


def _time(
    key: str, title: str, moment: Callable[[TrialView], datetime | None], sort: str | None = None
) -> Column:
    return Column(key, title, lambda _: "", sort, kind="time", moment=moment)


def _numeric(spec: Mapping[str, Any], name: str) -> bool:
    """Whether a hyperparameter's values are numbers, which stand at the right."""
    choices = spec.get("space", {}).get(name, {}).get("choices", ())
    return all(isinstance(choice, int | float) for choice in choices)


def searched(spec: Mapping[str, Any], trials: Iterable[TrialView]) -> list[str]:
    """The hyperparameters that differ from trial to trial, in the study file's order."""
    space = spec.get("space")
    names = []
    if isinstance(space, Mapping):
        names = [
            name
            for name, entry in space.items()
            if isinstance(entry, Mapping) and entry.get("type") != "constant"
        ]
    return list(dict.fromkeys([*names, *(name for trial in trials for name in trial.params)]))


@dataclass(frozen=True)
class Asked:
    """What the address asks of the table."""

    state: str = ""
    sort: str = "number"
    order: str = "desc"
    filters: Sequence[str] = ()
    """Ranges and choices to keep to, such as ``lr:0.001..0.01``."""
    columns: Sequence[str] | None = None
    """Keys of the columns wanted; None: the standard ones."""
    cursor: str | None = None

    def query(self, **changes: object) -> str:
        """The address's query with something changed; None takes it away."""
        given: dict[str, object] = {
            "state": self.state or None,
            "sort": self.sort,
            "order": self.order,
            "filter": list(self.filters) or None,
            "columns": None if self.columns is None else ",".join(self.columns),
            # A new order or another choice of trials starts at the first page.
            "cursor": None if {"sort", "filter", "state"} & set(changes) else self.cursor,
        }
        given.update(changes)
        kept = {key: value for key, value in given.items() if value is not None}
        return urlencode(kept, doseq=True)


@dataclass(frozen=True)
class TrialsTable:
    """A page of trials, sorted and cut by the database."""

    states: ClassVar = STATES
    """What the filter of states offers."""
    base: str
    """The address that sorting and paging start from."""
    asked: Asked
    columns: Sequence[Column]
    """Those shown."""
    choices: Sequence[tuple[Column, bool]]
    """All there are, and whether they are shown."""
    parameters: Sequence[tuple[str, str]]
    """What the filter offers: what an address calls it, and its name."""
    trials: Sequence[TrialView]
    best_id: int | None
    next_cursor: str | None
    total: int
    digits: int
    """How many tell the values of the first objective apart, the best of the study among them."""

    @classmethod
    def of(
        cls,
        study: StudyView,
        trials: Sequence[TrialView],
        next_cursor: str | None,
        asked: Asked,
        *,
        base: str,
        workers: Mapping[int, str],
    ) -> TrialsTable:
        """The table of these trials of a study."""
        values = [_objective(0, trial) for trial in (*trials, *filter(None, [study.best]))]
        digits = telling(values, 4)
        every = columns_of(study, trials, workers, digits)
        wanted = None if asked.columns is None else set(asked.columns)
        chosen = [(c, c.standard if wanted is None else c.key in wanted) for c in every]
        counts = study.counts
        return cls(
            base=base,
            asked=asked,
            columns=[column for column, shown in chosen if shown],
            choices=chosen,
            parameters=[(filter_name(name), name) for name in searched(study.spec, ())],
            trials=trials,
            best_id=study.best.id if study.best else None,
            next_cursor=next_cursor,
            total=getattr(counts, asked.state) if asked.state else counts.total,
            digits=digits,
        )

    @property
    def narrowed(self) -> bool:
        """Whether an empty table may be the filter's doing."""
        return bool(self.asked.state or self.asked.filters or self.asked.cursor)

    def link(self, **changes: object) -> str:
        """The address of this table with something changed."""
        return f"{self.base}?{self.asked.query(**changes)}#trials"

    def without(self, given: str) -> str:
        """The address without one filter."""
        return self.link(filter=[one for one in self.asked.filters if one != given] or None)
