"""Lists as people page through them: filtered, sorted, and continued by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, String, and_, case, cast, func, or_, select
from sqlalchemy.orm import Session

from tuner.storage.measurements import NOT_NUMBERS
from tuner.storage.models import Study, Trial
from tuner.storage.studies import COLUMNS as STUDY_COLUMNS
from tuner.storage.studies import StudyRow
from tuner.storage.tallies import comparable, ranked
from tuner.storage.trials import COLUMNS, TrialRow, select_rows

Kind = tuple[type, ...]
NUMBER: Kind = (int, float)
STUDY_SORTS: dict[str, tuple[Any, Kind]] = {
    "created_at": (Study.created_at, (datetime,)),
    "name": (Study.name, (str,)),
    "priority": (Study.priority, (int,)),
    "id": (Study.id, (int,)),
}
"""What studies can be sorted by: the column, and the type of its values."""
TRIAL_SORTS: dict[str, tuple[Any, Kind]] = {
    "number": (Trial.number, (int,)),
    "state": (Trial.state, (str,)),
    "step": (Trial.step, (int,)),
    "created_at": (Trial.created_at, (datetime,)),
    "device_seconds": (Trial.device_seconds, NUMBER),
    "attempt": (Trial.attempt, (int,)),
}
"""The same of trials; ``value`` and single parameters join them."""
LAST = 1e308
"""Where trials without a value stand in a list sorted by it: after all others."""


def studies(
    session: Session,
    *,
    state: str | None,
    tag: str | None,
    text: str | None,
    sort: str,
    descending: bool,
    after: Sequence[Any] | None,
    limit: int,
) -> list[StudyRow]:
    """Studies in the order of one of ``STUDY_SORTS``, ties by id.

    Args:
        session: Where to read.
        state: Only those in this state.
        tag: Only those with this tag.
        text: Only those whose name holds this, whatever its case.
        sort: A name of ``STUDY_SORTS``.
        descending: Whether the greatest come first.
        after: Sorted value and id of the last study of the page before.
        limit: How many at most.
    """
    column = STUDY_SORTS[sort][0]
    query = select(*STUDY_COLUMNS)
    if state is not None:
        query = query.where(Study.state == state)
    if text:
        query = query.where(Study.name.icontains(text, autoescape=True))
    if tag is not None:
        # The list is stored as JSON text, in which a tag stands between quotes.
        quoted = '"' + tag.replace("\\", "\\\\").replace('"', '\\"') + '"'
        query = query.where(cast(Study.tags, String).contains(quoted, autoescape=True))
    if after is not None:
        query = query.where(_beyond(column, Study.id, after, descending, descending))
    ends = Study.id.desc() if descending else Study.id
    query = query.order_by(column.desc() if descending else column, ends)
    return [StudyRow(*row) for row in session.execute(query.limit(limit))]


def _beyond(
    column: Any, unique: Any, after: Sequence[Any], descending: bool, unique_descending: bool
) -> ColumnElement[bool]:
    """Rows that come after the one with these two values."""
    further = column < after[0] if descending else column > after[0]
    tie = unique < after[1] if unique_descending else unique > after[1]
    return or_(further, and_(column == after[0], tie))


def by_value(descending: bool, place: int = 0) -> tuple[ColumnElement[Any], Kind]:
    """Trials by one objective, the first unless told; those without a finite one come last."""
    known = and_(
        Trial.state.in_(("complete", "pruned")),
        Trial.values[place].as_string().not_in(NOT_NUMBERS),
    )
    end = -LAST if descending else LAST
    return case((known, Trial.values[place].as_float()), else_=end), NUMBER


def by_parameter(name: str, *, text: bool, descending: bool) -> tuple[ColumnElement[Any], Kind]:
    """Trials by one parameter, as text or as a number; those without it come last as numbers."""
    if text:
        return func.coalesce(Trial.params[name].as_string(), ""), (str,)
    return func.coalesce(Trial.params[name].as_float(), -LAST if descending else LAST), NUMBER


def trials(
    session: Session,
    study_id: int,
    *,
    state: str | None,
    chosen: Mapping[str, Sequence[str]],
    within: Mapping[str | None, tuple[float, float]],
    column: Any,
    descending: bool,
    after: Sequence[Any] | None,
    limit: int,
) -> list[tuple[TrialRow, Any]]:
    """A study's trials with their sorted value, ties by number.

    Args:
        session: Where to read.
        study_id: Whose.
        state: Only those in this state, those set aside apart as ``paused``.
        chosen: Categorical parameters and the choices that each may have, as text.
        within: Numeric parameters and the range of each, ends included; None: the first objective.
        column: What they are sorted by.
        descending: Whether the greatest come first.
        after: Sorted value and number of the last trial of the page before.
        limit: How many at most.
    """
    query: Select[Any] = select(*COLUMNS, column).where(Trial.study_id == study_id)
    if state == "paused":
        query = query.where(Trial.paused)
    elif state is not None:
        query = query.where(Trial.state == state, ~Trial.paused)
    for name, choices in chosen.items():
        query = query.where(Trial.params[name].as_string().in_(choices))
    for place, (low, high) in within.items():
        if place is None:
            query = query.where(Trial.values[0].as_string().not_in(NOT_NUMBERS))
        number = (Trial.values[0] if place is None else Trial.params[place]).as_float()
        query = query.where(number.between(low, high))
    if after is not None:
        query = query.where(_beyond(column, Trial.number, after, descending, False))
    rows = session.execute(
        query.order_by(column.desc() if descending else column, Trial.number).limit(limit)
    )
    return [(TrialRow(*list(row)[:-1]), row[-1]) for row in rows]


def best(session: Session, study_id: int, direction: str, k: int) -> list[TrialRow]:
    """The ``k`` best complete trials that keep the constraint."""
    return select_rows(
        session,
        select(*COLUMNS)
        .where(Trial.study_id == study_id, *comparable())
        .order_by(*ranked(direction))
        .limit(k),
    )
