"""What a turn writes: a study's row, its trials, their points and the events, in one batch each.

On PostgreSQL all that is one statement, to which each batch is one parameter: there each statement
is a journey to the server and back. SQLite works in this process, and takes a statement each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any, cast

from sqlalchemy import Table, bindparam, func, insert, select, true, update
from sqlalchemy import cast as cast_to
from sqlalchemy.dialects import postgresql, sqlite

from tuner.storage import events, receipts, studies
from tuner.storage.engine import dump_json
from tuner.storage.events import NewEvent
from tuner.storage.measurements import Point
from tuner.storage.models import Measurement, Study, Trial
from tuner.storage.prepared import (
    Executing,
    Prepared,
    all_of,
    given_row,
    given_rows,
    looked_up,
    named_row,
)
from tuner.storage.receipts import NewReceipt
from tuner.storage.studies import StudyRow
from tuner.storage.trials import FIXED, GOING, MOVING, NewTrial, TrialRow

_studies = cast("Table", Study.__table__)
_trials = cast("Table", Trial.__table__)
_points = cast("Table", Measurement.__table__)

_POINT = [one.name for one in fields(Point)]
_NEW = [*FIXED, *MOVING, "distributions", "user_attrs", "system_attrs"]


def write(
    connection: Executing,
    study: StudyRow,
    *,
    known: int,
    revision: int,
    new: Sequence[tuple[TrialRow, NewTrial]] = (),
    rows: Sequence[TrialRow] = (),
    going: bool = False,
    points: Sequence[Point] = (),
    told: Sequence[NewEvent] = (),
    receipt: NewReceipt | None = None,
    actor: str | None = None,
    now: datetime,
) -> bool:
    """Writes what moved. A point that is there already stays as it was.

    Args:
        connection: A transaction; on PostgreSQL it may be one that ends with each statement.
        study: The study.
        known: Its revision in the database, if nobody else has changed it.
        revision: Its revision from now on, and that of the trials.
        new: Trials to add, in the order of their numbers; they get their ids here.
        rows: Trials that have changed.
        going: Whether nothing has changed of any of them but ``trials.GOING``.
        points: New points.
        told: Events of all that.
        receipt: That of the request which is given something by it.
        actor: On whose behalf.
        now: The present moment.

    Returns:
        False when somebody else has changed the study: then nothing is written.

    Raises:
        IntegrityError: A receipt of the same name is there; nothing is written.
    """
    for row in (*rows, *(row for row, _ in new)):
        row.revision = revision
    moved = {**_study_values(study), "known_revision": known, "new_revision": revision}
    columns = GOING if going else MOVING
    trials = [_trial_values[columns](row) for row in rows]
    measured = [_point_values(point) for point in points]
    if connection.dialect.name == "postgresql":
        batches = {"trials": trials, "points": measured}
        single = not new and receipt is None and len(trials) == len(measured) == len(told) == 1
        if new:
            _number_new(connection, [row for row, _ in new])
            batches["new"] = [_new_values(*one) for one in new]
        if receipt is not None:
            batches["receipt"] = [receipt.as_row(now)]
        batches["events"] = events.as_rows(told, actor, now)  # new trials have ids by now
        for name, batch in batches.items():
            moved |= named_row(name, batch[0]) if single else {name: dump_json(batch)}
        write_all = _write_all(columns, new=bool(new), kept=receipt is not None, single=single)
        return bool(write_all.rows(connection, moved))
    if not _STUDY.rows(connection, moved):
        return False
    if receipt is not None:
        receipts.ADD.run(connection, receipt.as_row(now))
    for one in new:
        one[0].id = _ADD.rows(connection, _new_values(*one))[0][0]
    _TRIALS[columns].run_many(connection, trials)
    _POINTS.run_many(connection, measured)
    events.ADD.run_many(connection, events.as_rows(told, actor, now))
    return True


def _number_new(connection: Executing, rows: Sequence[TrialRow]) -> None:
    """Gives new trials their ids on PostgreSQL, where that needs no transaction."""
    ids = sorted(row[0] for row in _IDS.rows(connection, {"count": len(rows)}))
    for row, row_id in zip(rows, ids, strict=True):
        row.id = row_id


def _picker(names: Sequence[str], prefix: str = "") -> Callable[[object], dict[str, Any]]:
    """What reads these attributes of a row, as parameters of a statement."""
    read, keys = attrgetter(*names), [prefix + name for name in names]
    return lambda row: dict(zip(keys, read(row), strict=True))


_study_values = _picker(["id", *studies.MOVING], "new_")
_trial_values = {columns: _picker(["id", *columns]) for columns in (MOVING, GOING)}
_first_values = _picker([*FIXED, *MOVING])
_point_values = _picker(_POINT)


def _new_values(row: TrialRow, new: NewTrial) -> dict[str, Any]:
    rest = {"distributions": new.distributions, "user_attrs": {}, "system_attrs": {}}
    return {**_first_values(row), **rest}


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
_ADD = Prepared(insert(_trials).returning(_trials.c.id), _NEW[1:])
_SEQUENCE = cast_to(func.pg_get_serial_sequence("trials", "id"), postgresql.REGCLASS)
_IDS = Prepared(
    select(func.nextval(_SEQUENCE)).select_from(func.generate_series(1, bindparam("count")))
)


@functools.cache
def _write_all(columns: tuple[str, ...], *, new: bool, kept: bool, single: bool) -> Prepared:
    """All at once, for a study that has still the known revision; returns its id."""
    given = given_row if single else given_rows
    study = _write_study.cte("study")
    moved = given("trials", [_trials.c[name] for name in ("id", *columns)])
    measured = given("points", [_points.c[name] for name in _POINT])
    parts = [
        update(_trials)
        .where(looked_up(_trials.c.id, moved.c.id), _trials.c.study_id == study.c.id)
        .values({name: moved.c[name] for name in columns})
        .returning(_trials.c.id)
        .cte("moved"),
        postgresql.insert(_points)
        .from_select(_POINT, select(all_of(measured)).select_from(measured.join(study, true())))
        .on_conflict_do_nothing()
        .returning(_points.c.step)
        .cte("measured"),
        events.adding(study, given).cte("told"),
    ]
    if new:
        added = given_rows("new", [_trials.c[name] for name in _NEW])
        rows = select(all_of(added)).select_from(added.join(study, true()))
        stored = insert(_trials).from_select(_NEW, rows)
        parts.append(stored.returning(_trials.c.id).cte("added"))
    if kept:
        parts.append(receipts.adding(study).cte("kept"))
    return Prepared(select(study.c.id).add_cte(*parts))
