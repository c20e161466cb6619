"""A prepared statement takes and gives the same values as SQLAlchemy's own execution."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import DBAPIError

from tuner.errors import Conflict
from tuner.storage.engine import Database
from tuner.storage.models import Study, Worker
from tuner.storage.prepared import Prepared

WORKERS = Worker.__table__
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ROW = {
    "name": "w",
    "state": "active",
    "device": {"kind": "cpu", "deep": [1, None, {"x": 0.1}]},
    "tasks": ["digits", "it's"],
    "slots": 3,
    "status": {},
    "registered_at": NOW.astimezone(timezone(timedelta(hours=5))),
    "heartbeat_at": NOW,
}

ADD = Prepared(insert(Worker).returning(WORKERS.c.id), list(ROW))
READ = Prepared(
    select(WORKERS.c.id, WORKERS.c.device, WORKERS.c.tasks, WORKERS.c.registered_at)
    .where(WORKERS.c.state == "active", WORKERS.c.slots >= bindparam("slots"))
    .order_by(WORKERS.c.id)
)
TOUCH = Prepared(update(Worker).where(WORKERS.c.id == bindparam("row_id")), ["device"])


def test_values_go_in_and_come_out(database: Database) -> None:
    with database.write() as session:
        connection = session.connection()
        ids = [ADD.rows(connection, ROW | {"slots": slots})[0][0] for slots in (1, 3, 5)]
        TOUCH.run(connection, {"row_id": ids[2], "device": {"b": 2}})
    with database.session() as session:
        read = READ.rows(session.connection(), {"slots": 3})
        same = session.execute(
            select(Worker.id, Worker.device, Worker.tasks, Worker.registered_at)
            .where(Worker.slots >= 3)
            .order_by(Worker.id)
        )
        assert [tuple(row) for row in read] == [tuple(row) for row in same]
    assert tuple(read[0]) == (ids[1], ROW["device"], ROW["tasks"], NOW)
    assert tuple(read[1]) == (ids[2], {"b": 2}, ROW["tasks"], NOW)


def test_many_rows_are_one_call(database: Database) -> None:
    with database.write() as session:
        connection = session.connection()
        ids = [ADD.rows(connection, ROW)[0][0] for _ in range(3)]
        TOUCH.run_many(connection, [{"row_id": i, "device": {"id": i}} for i in ids])
        TOUCH.run_many(connection, [])
    with database.session() as session:
        read = READ.rows(session.connection(), {"slots": 0})
    assert [row[1] for row in read] == [{"id": i} for i in ids]


def test_what_the_database_refuses_is_translated(database: Database) -> None:
    columns = ["name", "state", "directions", "created_at", "spec", "tags", "priority"]
    columns += ["revision", "next_number", "device_seconds", "active_seconds"]
    columns += ["user_attrs", "system_attrs"]
    add = Prepared(insert(Study), columns)
    row = dict.fromkeys(columns, 0) | {"name": "s", "state": "queued", "created_at": NOW}
    row |= {"directions": [], "tags": [], "spec": {}, "user_attrs": {}, "system_attrs": {}}
    with pytest.raises(Conflict), database.write() as session:
        add.run_many(session.connection(), [row, row])
    with pytest.raises(DBAPIError), database.session() as session:
        add.run(session.connection(), row)
