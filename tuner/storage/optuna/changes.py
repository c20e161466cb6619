"""What Optuna changes of trials: one statement on PostgreSQL, a short transaction on SQLite.

A study's revision counts up first, under the lock of its row, as wherever trials change. A change
of a trial that is not as it was known changes nothing else; that the revision has counted up then
means no more than a look at the database to whoever goes by it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, Update, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tuner.storage.engine import Database
from tuner.storage.models import Measurement, Study, Trial
from tuner.storage.optuna import frozen
from tuner.storage.optuna.frozen import Stored
from tuner.storage.prepared import Executing, Prepared

_studies = cast("Table", Study.__table__)
_trials = cast("Table", Trial.__table__)
_points = cast("Table", Measurement.__table__)

_NEW: dict[str, Any] = {
    "state": "running",
    "params": {},
    "distributions": {},
    "values": None,
    "seed": 0,
    "origin": "optuna",
    "attempt": 1,
    "paused": False,
    "step": 0,
    "until": 0,
    "note": {},
    "user_attrs": {},
    "system_attrs": {},
    "device_seconds": 0.0,
    "started_at": None,
    "finished_at": None,
}
"""A new trial's columns unless Optuna says otherwise; the rest is the study's to say."""
_COUNTED = ("study_id", "number", "revision")
_POINT = ("trial_id", "attempt", "step", "value", "metrics", "created_at")


def create(
    database: Database,
    study_id: int,
    columns: Mapping[str, Any],
    curve: Mapping[int, float],
    now: datetime,
) -> Stored | None:
    """Stores a new trial; None where there is no such study."""
    row = {**_NEW, **columns, "created_at": now}
    if not curve:
        with database.brief() as connection:
            return _create(connection, study_id, row)
    with database.write() as session:
        made = _create(session.connection(), study_id, row)
        if made is not None:
            points = [frozen.measured(made.id, 1, step, x, now) for step, x in curve.items()]
            session.connection().execute(insert(_points), points)
        return made


def _create(connection: Executing, study_id: int, row: dict[str, Any]) -> Stored | None:
    given = {"of_study": study_id}
    if connection.dialect.name == "postgresql":
        found = _CREATE.rows(connection, given | {f"new_{name}": row[name] for name in _CREATED})
    else:
        found = _NUMBER.rows(connection, given)
        if found:
            number, revision = found[0]
            counted = {"study_id": study_id, "number": number, "revision": revision}
            found = [(*_ADD.rows(connection, row | counted)[0], number, revision)]
    if not found:
        return None
    trial_id, number, revision = found[0]
    return Stored.of({**row, "id": trial_id, "number": number, "revision": revision})


def change(
    database: Database,
    study_id: int,
    stored: Stored,
    columns: Mapping[str, Any],
    point: tuple[int, float] | None,
    now: datetime,
) -> Stored | None:
    """Changes a trial and adds a point to its curve.

    Args:
        database: Where.
        study_id: The trial's study.
        stored: The trial as it is known.
        columns: What is new of it.
        point: Step and value of a measurement; another one at that step is replaced.
        now: The present moment.

    Returns:
        The trial as it is now; None, and nothing changed, where it was not as known.
    """
    given = {"of_study": study_id, "row_id": stored.id, "known_revision": stored.revision}
    given |= {f"new_{name}": value for name, value in columns.items()}
    if point is not None:
        given |= frozen.measured(stored.id, stored.attempt, *point, now)
    names = tuple(sorted(columns))
    with database.brief() as connection:
        if connection.dialect.name == "postgresql":
            found = _change(names, point is not None).rows(connection, given)
            return stored.changed(columns, found[0][0]) if found else None
        counted = _REVISE.rows(connection, given)
        if not counted:
            return None
        given["new_revision"] = counted[0][0]
        if not _change_counted(names).rows(connection, given):
            return None
        if point is not None:
            _MEASURE.run(connection, given)
        return stored.changed(columns, counted[0][0])


def _counting(**more: Any) -> Any:
    """Locks a study and counts its revision up."""
    return (
        update(_studies)
        .where(_studies.c.id == bindparam("of_study"))
        .values(revision=_studies.c.revision + 1, **more)
    )


def _changing(names: tuple[str, ...], revision: Any) -> Update:
    """Changes columns of a trial that is as known."""
    new: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    return (
        update(_trials)
        .where(
            _trials.c.id == bindparam("row_id"),
            _trials.c.revision == bindparam("known_revision"),
        )
        .values(revision=revision, **new)
    )


def _replacing(insertion: Any) -> Any:
    """A measurement takes the place of another at its step."""
    return insertion.on_conflict_do_update(
        index_elements=[_points.c.trial_id, _points.c.attempt, _points.c.step],
        set_={"value": insertion.excluded.value, "metrics": insertion.excluded.metrics},
    )


@functools.cache
def _change(names: tuple[str, ...], measured: bool) -> Prepared:
    """All at once, on PostgreSQL; returns the revision."""
    study = _counting().returning(_studies.c.id, _studies.c.revision).cte("study")
    changed = _changing(names, study.c.revision).where(_trials.c.study_id == study.c.id)
    if not measured:
        return Prepared(changed.returning(_trials.c.revision))
    trial = changed.returning(_trials.c.revision).cte("trial")
    point = select(*[bindparam(n, type_=_points.c[n].type) for n in _POINT])
    added = _replacing(postgresql.insert(_points).from_select(_POINT, point.select_from(trial)))
    return Prepared(select(trial.c.revision).add_cte(added.cte("point")))


@functools.cache
def _change_counted(names: tuple[str, ...]) -> Prepared:
    """A trial of a study that has been counted up, on SQLite."""
    changed = _changing(names, bindparam("new_revision"))
    return Prepared(changed.returning(_trials.c.revision))


def _create_all() -> Prepared:
    """All at once, on PostgreSQL; returns id, number and revision."""
    study = (
        _counting(next_number=_studies.c.next_number + 1)
        .returning(_studies.c.id, _studies.c.next_number - 1, _studies.c.revision)
        .cte("study")
    )
    names = [*_COUNTED, *_CREATED]
    values = [bindparam(f"new_{name}", type_=_trials.c[name].type) for name in _CREATED]
    added = insert(_trials).from_select(names, select(*study.c, *values))
    return Prepared(added.returning(_trials.c.id, _trials.c.number, _trials.c.revision))


_CREATED = [*_NEW, "created_at"]
_CREATE = _create_all()
_REVISE = Prepared(_counting().returning(_studies.c.revision))
_NUMBER = Prepared(
    _counting(next_number=_studies.c.next_number + 1).returning(
        _studies.c.next_number - 1, _studies.c.revision
    )
)
_ADD = Prepared(insert(_trials).returning(_trials.c.id), [*_COUNTED, *_CREATED])
_MEASURE = Prepared(_replacing(sqlite.insert(_points)), _POINT)
