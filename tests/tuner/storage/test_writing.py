"""What a turn writes is read back as it was, to the last digit, on both databases."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from tuner.errors import Conflict, InvalidInput
from tuner.storage import events, measurements, receipts, studies, trials, writing
from tuner.storage.engine import Database
from tuner.storage.events import NewEvent
from tuner.storage.measurements import Point
from tuner.storage.receipts import NewReceipt
from tuner.storage.studies import StudyRow
from tuner.storage.trials import NewTrial, TrialRow

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = NOW + timedelta(days=400, microseconds=1)
NUMBERS = [0.1 + 0.2, 1 / 3, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1e-9, 1e22]
TEXT = 'it\'s "quoted", a \\ and a percent % and :name and ü and 漢 and \U0001f600'


def new_study(database: Database) -> StudyRow:
    with database.write() as session:
        study_id = studies.add(
            session, {"name": "s", "directions": ["minimize"], "created_at": NOW, "spec": {"a": 1}}
        )
    with database.session() as session:
        return studies.get(session, study_id)


def new_trials(
    database: Database, study: StudyRow, count: int, note: dict[str, object] | None = None
) -> list[TrialRow]:
    new = [
        NewTrial(
            number=i,
            params={"x": NUMBERS[i % len(NUMBERS)], "name": TEXT},
            distributions={"x": "{}", "name": TEXT},
            seed=2**62,
            origin="sampled",
            until=5,
            note=note or {},
        )
        for i in range(count)
    ]
    rows = [one.row(study.id, NOW) for one in new]
    with database.brief() as direct:
        assert writing.write(
            direct,
            study,
            known=0,
            revision=0,
            new=list(zip(rows, new, strict=True)),
            now=NOW,
        )
    return rows


def written(session: Session, study: StudyRow, revision: int, **what: Any) -> bool:
    return writing.write(
        session.connection(), study, known=revision - 1, revision=revision, now=NOW, **what
    )


def stored(database: Database, rows: list[TrialRow]) -> list[TrialRow]:
    with database.session() as session:
        found = trials.by_ids(session, [row.id for row in rows])
    return [found[row.id] for row in rows]


@pytest.mark.parametrize("count", [0, 1, 20])
def test_new_trials_are_read_back(database: Database, count: int) -> None:
    study = new_study(database)
    rows = new_trials(database, study, count, {"draw": 3, "deep": {"of": [1, None, TEXT]}})
    assert [row.number for row in rows] == list(range(count))
    assert stored(database, rows) == rows


def test_new_trials_are_told_of_by_their_ids(database: Database) -> None:
    study = new_study(database)
    new = [
        NewTrial(number=i, params={}, distributions={}, seed=0, origin="sampled", until=1)
        for i in range(3)
    ]
    rows = [one.row(study.id, NOW) for one in new]
    for row in rows:
        row.hold(None, "token", LATER, NOW)
    told = [NewEvent("trial.leased", study.id, data={"a": 1}, of=rows)]
    with database.write() as session:
        pairs = list(zip(rows, new, strict=True))
        assert written(session, study, 1, new=pairs, told=told)
    assert stored(database, rows) == rows
    assert {row.lease_token for row in rows} == {"token"}
    ids = [row.id for row in rows]
    assert ids == sorted(set(ids))
    with database.session() as session:
        (event,) = events.of_study(session, study.id, 0, 10)
    assert event.data == {"a": 1, "trials": ids, "numbers": [0, 1, 2]}


def test_all_that_moved_is_read_back(database: Database) -> None:
    study = new_study(database)
    rows = new_trials(database, study, len(NUMBERS))
    for row, number in zip(rows, NUMBERS, strict=True):
        row.hold(None, "token", LATER, NOW)
        row.step, row.until, row.attempt = 2, 3, 2
        row.values, row.constraint, row.device_seconds = [number], number, number
        row.checkpoint = {"uri": TEXT, "step": 2, "attempt": 2}
    rows[-1].end("fail", TEXT, LATER)
    changed = replace(study, state="running", next_number=7, device_seconds=NUMBERS[0])
    changed = replace(changed, active_seconds=NUMBERS[1], active_since=NOW, reason=TEXT)
    with database.write() as session:
        assert written(session, changed, 1, rows=rows)
    assert stored(database, rows) == rows
    assert {row.revision for row in rows} == {1}
    with database.session() as session:
        assert studies.get(session, study.id) == replace(changed, revision=1)
        assert trials.changed(session, study.id, 0) == rows
        assert trials.changed(session, study.id, 1) == []


def test_of_trials_that_go_on_only_what_moves_is_written(database: Database) -> None:
    study = new_study(database)
    rows = new_trials(database, study, len(NUMBERS))
    for row, number in zip(rows, NUMBERS, strict=True):
        row.step, row.until = 2, 3
        row.values, row.constraint, row.device_seconds = [number], number, number
        row.checkpoint = {"uri": TEXT, "step": 2, "attempt": 2}
    with database.write() as session:
        assert written(session, study, 1, rows=rows, going=True)
    assert stored(database, rows) == rows
    with database.write() as session:
        assert written(
            session, study, 2, rows=[replace(row, reason=TEXT) for row in rows], going=True
        )
    assert [row.reason for row in stored(database, rows)] == [None] * len(rows)


def test_numbers_that_are_not_finite_are_kept_as_text(database: Database) -> None:
    study = new_study(database)
    (row,) = new_trials(database, study, 1)
    row.values = [math.inf, -math.inf]
    metrics = {"loss": math.nan, "norm": math.inf, TEXT: 0.1}
    point = Point(row.id, 1, 1, None, 2**40, 0.5, metrics, NOW)
    with database.write() as session:
        assert written(session, study, 1, rows=[row], points=[point])
    assert stored(database, [row])[0].values == ["inf", "-inf"]
    with database.session() as session:
        (read,) = measurements.of_trial(session, row.id)
    assert read.metrics == {"loss": "nan", "norm": "inf", TEXT: 0.1}
    assert replace(read, metrics=metrics) == point


def test_a_point_that_is_there_stays_as_it_was(database: Database) -> None:
    study = new_study(database)
    (row,) = new_trials(database, study, 1)
    first = [Point(row.id, 1, i, x, None, None, {"v": x}, NOW) for i, x in enumerate(NUMBERS, 1)]
    again = [replace(first[0], value=9.0, metrics={"v": 9.0}), replace(first[-1], attempt=2)]
    with database.write() as session:
        assert written(session, study, 1, points=first)
    with database.write() as session:
        assert written(session, study, 2, points=again)
    with database.session() as session:
        read = measurements.of_trial(session, row.id)
    assert read == [*first[:-1], again[1]]
    assert [repr(point.value) for point in read] == [repr(x) for x in NUMBERS]


def test_a_report_of_one_trial_is_read_back(database: Database) -> None:
    study = new_study(database)
    (row,) = new_trials(database, study, 1)
    row.hold(None, "token", LATER, NOW)
    row.values, row.constraint, row.device_seconds = [math.inf, 1 / 3], NUMBERS[0], NUMBERS[2]
    row.checkpoint = {"uri": TEXT, "step": 1, "attempt": 1}
    point = Point(row.id, 1, 1, NUMBERS[1], 2**40, NUMBERS[4], {TEXT: math.nan, "v": 0.1}, NOW)
    told = NewEvent("k", study.id, row.id, None, {"text": TEXT, "deep": [1, None, {"x": 0.1}]})
    with database.brief() as connection:
        assert writing.write(
            connection,
            replace(study, device_seconds=NUMBERS[3], active_since=NOW),
            known=0,
            revision=1,
            rows=[row],
            points=[point],
            told=[told],
            actor="anna",
            now=NOW,
        )
    row.values = ["inf", 1 / 3]
    assert stored(database, [row]) == [row]
    with database.session() as session:
        assert studies.get(session, study.id) == replace(
            study, device_seconds=NUMBERS[3], active_since=NOW, revision=1
        )
        (read,) = measurements.of_trial(session, row.id)
        (event,) = events.of_study(session, study.id, 0, 10)
    assert read == replace(point, metrics={TEXT: "nan", "v": 0.1})
    assert (event.kind, event.trial_id, event.data, event.actor) == ("k", row.id, told.data, "anna")


def test_nothing_is_written_once_somebody_else_has_changed_the_study(database: Database) -> None:
    study = new_study(database)
    (row,) = new_trials(database, study, 1)
    with database.write() as session:
        assert written(session, study, 1)
    point = Point(row.id, 1, 1, 0.5, None, None, {"v": 0.5}, NOW)
    late = {"rows": [replace(row, step=1)], "points": [point], "told": [NewEvent("k", study.id)]}
    with database.brief() as connection:
        moved = replace(study, state="running")
        assert not writing.write(connection, moved, known=0, revision=1, now=NOW, **late)
    with database.session() as session:
        assert studies.get(session, study.id).state == "queued"
        assert measurements.of_trial(session, row.id) == []
        assert events.newest(session, study.id) == 0
    assert stored(database, [row]) == [row]


@pytest.mark.parametrize("count", [0, 2])
def test_what_a_request_was_given_is_written_once(database: Database, count: int) -> None:
    study = new_study(database)
    (row,) = new_trials(database, study, 1)
    receipt = NewReceipt("key", {"token": TEXT})
    first = {"rows": [replace(row, step=1)], "receipt": receipt}
    with database.brief() as connection:
        assert writing.write(connection, study, known=0, revision=1, now=NOW, **first)
    new = [
        NewTrial(number=i, params={}, distributions={}, seed=0, origin="sampled", until=1)
        for i in range(1, count + 1)
    ]
    late = {
        "rows": [replace(row, step=2)],
        "new": [(one.row(study.id, NOW), one) for one in new],
        "told": [NewEvent("k", study.id)],
        "receipt": replace(receipt, made={"token": "other"}),
    }
    with pytest.raises(Conflict), database.brief() as connection:
        writing.write(connection, study, known=1, revision=2, now=NOW, **late)
    with database.session() as session:
        assert receipts.find(session.connection(), "key") == {"token": TEXT}
        assert trials.of_study(session, study.id) == [replace(row, step=1, revision=1)]
        assert studies.get(session, study.id).revision == 1
        assert events.newest(session, study.id) == 0


@pytest.mark.parametrize("dialect", ["postgresql"])
@pytest.mark.parametrize("columns", [trials.MOVING, trials.GOING])
@pytest.mark.parametrize("single", [True, False])
def test_trials_are_looked_up_however_small_the_planner_takes_their_table_for(
    database: Database, columns: tuple[str, ...], single: bool
) -> None:
    study = new_study(database)
    new_trials(database, study, 300)
    with database.brief() as direct:
        direct.run("ANALYZE trials")
    statement = writing._write_all(columns, new=False, kept=False, single=single)
    compiled = statement._for(database.engine.dialect)
    text = compiled.text
    for i, name in enumerate(compiled.names, 1):
        text = text.replace(f"%({name})s", f"${i}")
    unknown = ", ".join(["NULL"] * len(compiled.names))
    with database.session() as session:
        execute = session.connection().exec_driver_sql
        execute("SET LOCAL plan_cache_mode = force_generic_plan")
        execute(f"PREPARE reporting AS {text}")
        plan = execute(f"EXPLAIN EXECUTE reporting ({unknown})").scalars().all()
    assert any("Index Scan using pk_trials" in line for line in plan), plan
    assert not any("Seq Scan on trials" in line for line in plan), plan


def test_events_are_numbered_in_their_order(database: Database) -> None:
    study = new_study(database)
    told = [NewEvent("k", study.id, i, None, {"i": i, "text": TEXT}) for i in range(50)]
    with database.write() as session:
        assert written(session, study, 1, told=told[:40], actor="anna")
    with database.write() as session:
        events.add(session, told[40:], None, NOW)
    with database.session() as session:
        read = events.of_study(session, study.id, 0, 100)
    assert [event.data["i"] for event in read] == list(range(50))
    assert [event.id for event in read] == sorted(event.id for event in read)
    assert {event.data["text"] for event in read} == {TEXT}
    assert [event.actor for event in read] == ["anna"] * 40 + [None] * 10


@pytest.mark.parametrize("dialect", ["postgresql"])  # SQLite stores any text
def test_text_that_the_database_cannot_hold_is_a_wrong_value(database: Database) -> None:
    study = new_study(database)
    (row,) = new_trials(database, study, 1)
    row.end("fail", "a zero byte \0", NOW)
    with pytest.raises(InvalidInput), database.write() as session:
        assert written(session, study, 1, rows=[row])
