"""What a turn writes: a study's row, its trials, their points and the events, in one batch each.

On PostgreSQL all that is one statement, to which each batch is one parameter: there each statement
is a journey to the server and back. SQLite works in this process, and takes a statement each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any, cast

from sqlalchemy import Table, bindparam, insert, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from tuner.storage import events, studies
from tuner.storage.engine import dump_rows
from tuner.storage.events import NewEvent
from tuner.storage.measurements import Point
from tuner.storage.models import Measurement, Study, Trial
from tuner.storage.prepared import Executing, Prepared, given_rows
from tuner.storage.studies import StudyRow
from tuner.storage.trials import FIXED, GOING, MOVING, NewTrial, TrialRow

_studies = cast("Table", Study.__table__)
_trials = cast("Table", Trial.__table__)
_points = cast("Table", Measurement.__table__)

_POINT = [one.name for one in fields(Point)]
_NEW = [*FIXED[1:], *MOVING, "distributions", "user_attrs", "system_attrs"]


def write(
    connection: Executing,
    study: StudyRow,
    *,
    known: int,
    revision: int,
    rows: Sequence[TrialRow] = (),
    going: bool = False,
    points: Sequence[Point] = (),
    told: Sequence[NewEvent] = (),
    actor: str | None = None,
    now: datetime,
) -> bool:
    """Writes what moved. A point that is there already stays as it was.

    Args:
        connection: A transaction; on PostgreSQL it may be one that ends with each statement.
        study: The study.
        known: Its revision in the database, if nobody else has changed it.
        revision: Its revision from now on, and that of the trials.
        rows: Trials that have changed.
        going: Whether nothing has changed of any of them but ``trials.GOING``.
        points: New points.
        told: Events; after them nothing else may be waited for.
        actor: On whose behalf.
        now: The present moment.

    Returns:
        False when somebody else has changed the study: then nothing is written.
    """
    for row in rows:
        row.revision = revision
    moved = {**_study_values(study), "known_revision": known, "new_revision": revision}
    columns = GOING if going else MOVING
    batches = {
        "trials": [_trial_values[columns](row) for row in rows],
        "points": [_point_values(point) for point in points],
        "events": events.as_rows(told, actor, now),
    }
    if connection.dialect.name == "postgresql":
        texts = {name: dump_rows(batch) for name, batch in batches.items()}
        return bool(_WRITE[columns].rows(connection, {**moved, **texts}))
    if not _STUDY.rows(connection, moved):
        return False
    _TRIALS[columns].run_many(connection, batches["trials"])
    _POINTS.run_many(connection, batches["points"])
    events.ADD.run_many(connection, batches["events"])
    return True


def add_trials(
    connection: Executing,
    study_id: int,
    new: Sequence[NewTrial],
    *,
    revision: int,
    now: datetime,
    lease: tuple[int | None, str, datetime] | None = None,
) -> list[TrialRow]:
    """Stores new trials, waiting or, with ``lease``, already held.

    Args:
        connection: The transaction, which holds the study's lock.
        study_id: Their study.
        new: In the order of their numbers.
        revision: The study's, after this change.
        now: When they are created.
        lease: Holder, token and expiry.
    """
    made, values = [], []
    for trial in new:
        row = TrialRow(
            id=0,
            study_id=study_id,
            number=trial.number,
            params=dict(trial.params),
            seed=trial.seed,
            origin=trial.origin,
            note=dict(trial.note),
            created_at=now,
            step=trial.step,
            until=trial.until,
            checkpoint=None if trial.checkpoint is None else dict(trial.checkpoint),
            reason=trial.reason,
            revision=revision,
        )
        if lease is not None:
            row.hold(*lease, now)
        made.append(row)
        rest = {"distributions": trial.distributions, "user_attrs": {}, "system_attrs": {}}
        values.append({**_first_values(row), **rest})
    if connection.dialect.name == "postgresql":
        given = {"trials": dump_rows(values)}
        ids = {number: i for i, number in _ADD_GIVEN.rows(connection, given)} if made else {}
        for row in made:
            row.id = ids[row.number]
    else:
        for row, one in zip(made, values, strict=True):
            row.id = _ADD.rows(connection, one)[0][0]
    return made


def _picker(names: Sequence[str], prefix: str = "") -> Callable[[object], dict[str, Any]]:
    """What reads these attributes of a row, as parameters of a statement."""
    read, keys = attrgetter(*names), [prefix + name for name in names]
    return lambda row: dict(zip(keys, read(row), strict=True))


_study_values = _picker(["id", *studies.MOVING], "new_")
_trial_values = {columns: _picker(["id", *columns]) for columns in (MOVING, GOING)}
_first_values = _picker([*FIXED[1:], *MOVING])
_point_values = _picker(_POINT)

_write_study = (
    update(_studies)
    .where(_studies.c.id == bindparam("new_id"), _studies.c.revision == bindparam("known_revision"))
    .values({name: bindparam(f"new_{name}") for name in studies.MOVING})
    .returning(_studies.c.id)
)
_STUDY = Prepared(_write_study)
_write_trial = update(_trials).where(_trials.c.id == bindparam("id"))
_TRIALS = {columns: Prepared(_write_trial, columns) for columns in (MOVING, GOING)}
_POINTS = Prepared(sqlite.insert(_points).on_conflict_do_nothing(), _POINT)
_ADD = Prepared(insert(_trials).returning(_trials.c.id), _NEW)


def _write_all(columns: Sequence[str]) -> Prepared:
    """All at once, for a study that has still the known revision; returns its id."""
    study = _write_study.cte("written_study")
    moved = given_rows("trials", [_trials.c[name] for name in ("id", *columns)])
    measured = given_rows("points", [_points.c[name] for name in _POINT])
    parts = (
        update(_trials)
        .where(_trials.c.id == moved.c.id, _trials.c.study_id == study.c.id)
        .values({name: moved.c[name] for name in columns})
        .returning(_trials.c.id)
        .cte("written_trials"),
        postgresql.insert(_points)
        .from_select(_POINT, select(*measured.c).join(study, true()))
        .on_conflict_do_nothing()
        .returning(_points.c.step)
        .cte("written_points"),
        events.adding(study).cte("written_events"),
    )
    return Prepared(select(study.c.id).add_cte(*parts))


def _add_given() -> Prepared:
    new = given_rows("trials", [_trials.c[name] for name in _NEW])
    added = insert(_trials).from_select(_NEW, select(*new.c))
    return Prepared(added.returning(_trials.c.id, _trials.c.number))


_WRITE = {columns: _write_all(columns) for columns in (MOVING, GOING)}
_ADD_GIVEN = _add_given()
