"""Transactions, refusals and translated errors, on both databases."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError, StatementError

from tuner.errors import Conflict, InvalidInput, SchemaOutdated, Unavailable
from tuner.storage import engine
from tuner.storage.engine import Database, dump_json, parse_url
from tuner.storage.models import Measurement, Study, Trial

# Overrides the fixture, so that what holds for one database is asked of no other.
only_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
only_postgresql = pytest.mark.parametrize("dialect", ["postgresql"])

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def study(name: str = "digits", **columns: object) -> Study:
    return Study(name=name, directions=["minimize"], created_at=NOW, **columns)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:shared?mode=memory&uri=true",
        "mysql://root@localhost/tuner",
        "tuner.sqlite",
        "",
    ],
)
def test_an_unusable_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_url(url)
    assert caught.value.field == "database_url"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_goes_through_psycopg(scheme: str) -> None:
    assert parse_url(f"{scheme}://u@h/d").drivername == "postgresql+psycopg"


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Database("postgresql://u:secret@localhost/d"))


def test_the_folder_of_a_sqlite_file_is_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/a/b/tuner.sqlite")
    with database.write() as session:
        session.execute(text("CREATE TABLE t (x INTEGER)"))
    assert (tmp_path / "a" / "b" / "tuner.sqlite").stat().st_size > 0
    database.dispose()


def test_what_a_write_leaves_is_committed(database: Database) -> None:
    with database.write() as session:
        session.add(study())
    with database.session() as session:
        assert session.scalar(select(Study.name)) == "digits"


def test_what_raises_is_rolled_back(database: Database) -> None:
    def half_done() -> None:
        with database.write() as session:
            session.add(study())
            session.flush()
            raise KeyError

    with pytest.raises(KeyError):
        half_done()
    with database.session() as session:
        assert session.scalar(select(func.count(Study.id))) == 0


def test_a_reading_session_refuses_to_write(database: Database) -> None:
    with pytest.raises(DBAPIError), database.session() as session:
        session.execute(insert(Study).values(name="x", directions=[], created_at=NOW))
    with database.write() as session:  # and the next one may write again
        session.add(study())


@only_sqlite  # PostgreSQL reads at READ COMMITTED: each statement sees its own moment
def test_a_reading_session_sees_one_moment_on_sqlite(database: Database) -> None:
    with database.session() as reading:
        assert reading.scalar(select(func.count(Study.id))) == 0
        with database.write() as session:
            session.add(study())
        assert reading.scalar(select(func.count(Study.id))) == 0


@only_sqlite  # pragmas are SQLite's
def test_sqlite_is_set_up_as_intended(database: Database) -> None:
    with database.session() as session:
        pragmas = {
            name: session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 1,
        "foreign_keys": 1,
        "busy_timeout": engine.BUSY_TIMEOUT_SECONDS * 1000,
    }


def test_a_breach_of_a_constraint_is_a_conflict(database: Database) -> None:
    with database.write() as session:
        session.add(study())
    with pytest.raises(Conflict) as caught, database.write() as session:
        session.add(study())
    assert "name" in str(caught.value.facts["constraint"])


@pytest.mark.parametrize(
    "columns",
    [
        {"state": "failed"},
        {"origin": "thin air"},
        {"study_id": 999},
        {"number": 0},
        {"lease_token": "t"},
        {"lease_token": "t", "lease_expires_at": NOW},
        {"paused": True},
    ],
    ids=str,
)
def test_the_database_keeps_the_invariants_of_a_trial(
    database: Database, columns: dict[str, object]
) -> None:
    with database.write() as session:
        session.add(study(id=1))
        session.flush()
        session.add(Trial(study_id=1, number=0, created_at=NOW))
    with pytest.raises(Conflict), database.write() as session:
        session.add(Trial(**({"study_id": 1, "number": 1, "created_at": NOW} | columns)))


def test_deleting_a_study_takes_all_that_is_its_own(database: Database) -> None:
    with database.write() as session:
        session.add(study(id=1))
        session.flush()
        session.add(Trial(id=1, study_id=1, number=0, created_at=NOW))
        session.flush()
        session.add(Measurement(trial_id=1, attempt=1, step=1, metrics={}, created_at=NOW))
    with database.write() as session:
        session.delete(session.get_one(Study, 1))
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(Measurement)) == 0


def test_the_id_of_a_deleted_study_is_not_given_out_again(database: Database) -> None:
    ids = []
    for _ in range(2):
        with database.write() as session:
            made = study()
            session.add(made)
            session.flush()
            ids.append(made.id)
            session.delete(made)
    assert ids[1] > ids[0]


def test_times_come_back_aware_and_equal(database: Database) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    with database.write() as session:
        session.add(study(started_at=elsewhere))
    with database.session() as session:
        stored = session.scalars(select(Study)).one()
        assert stored.started_at == NOW
        assert stored.started_at is not None
        assert stored.started_at.tzinfo is not None


def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="without a zone"), database.write() as session:
        session.add(study(started_at=NOW.replace(tzinfo=None)))


def test_an_absent_json_value_is_null_in_sql(database: Database) -> None:
    with database.write() as session:
        session.add(study(id=1))
        session.flush()
        session.add(Trial(study_id=1, number=0, values=None, checkpoint=None, created_at=NOW))
    with database.session() as session:
        found = session.scalars(
            select(Trial.number).where(Trial.values.is_(None), Trial.checkpoint.is_(None))
        )
        assert found.all() == [0]


def test_numbers_that_are_not_finite_can_be_stored(database: Database) -> None:
    metrics = {"loss": float("nan"), "nested": [float("inf"), {"x": float("-inf")}], "ok": 0.5}
    with database.write() as session:
        session.add(study(user_attrs=metrics))
    with database.session() as session:
        stored = session.scalars(select(Study.user_attrs)).one()
    assert stored == {"loss": "nan", "nested": ["inf", {"x": "-inf"}], "ok": 0.5}


def test_json_is_standard() -> None:
    assert json.loads(dump_json({"a": (1, float("inf"))})) == {"a": [1, "inf"]}
    for plain in (
        "NaN",
        "-Infinity",
        "\ud800",
        "\0",
        "ü漢\U0001f600",
        'a "b" \\ c',
        2**70,
        -0.0,
        5e-324,
    ):
        assert repr(json.loads(dump_json([plain, {"k": plain}]))) == repr([plain, {"k": plain}])
    assert dump_json([datetime(2026, 1, 2, 3, 4, 5, 6, UTC)]) in (
        '["2026-01-02T03:04:05.000006Z"]',
        '["2026-01-02T03:04:05.000006+00:00"]',
    )
    with pytest.raises(TypeError):
        dump_json({"a": object()})


@only_postgresql  # SQLite takes any text
def test_a_value_that_no_column_takes_is_invalid_input(database: Database) -> None:
    with pytest.raises(InvalidInput), database.write() as session:
        session.add(study(name="nul\x00byte"))


def test_a_mistake_in_a_query_is_not_dressed_up(database: Database, dialect: str) -> None:
    with pytest.raises(DBAPIError) as caught, database.session() as session:
        session.execute(text("SELECT FROM WHERE"))
    if dialect == "postgresql":
        assert isinstance(caught.value, ProgrammingError)


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM nowhere", "SELECT absent FROM studies", "INSERT INTO studies (x) VALUES (1)"],
)
def test_tables_of_another_version_are_named_as_that(database: Database, statement: str) -> None:
    with pytest.raises(SchemaOutdated, match="tuner db upgrade"), database.write() as session:
        session.execute(text(statement))
    with pytest.raises(SchemaOutdated), database.brief() as direct:
        direct.run(statement)


def test_an_unreachable_server_is_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(Unavailable), database.session() as session:
        session.execute(text("SELECT 1"))
    with pytest.raises(Unavailable), database.peek() as direct:
        direct.rows("SELECT 1")
    with pytest.raises(Unavailable), database.brief() as direct:
        direct.run("SELECT 1")


def test_an_unusable_file_is_unavailable(tmp_path: Path) -> None:
    folder = tmp_path / "tuner.sqlite"
    folder.mkdir()
    database = Database(f"sqlite:///{folder}")
    with pytest.raises(Unavailable), database.session() as session:
        session.execute(text("SELECT 1"))
    with pytest.raises(Unavailable), database.peek() as direct:
        direct.rows("SELECT 1")


@only_sqlite  # on PostgreSQL two transactions of one thread do not exclude each other
def test_a_write_inside_a_write_is_refused(database: Database) -> None:
    with (
        database.write(),
        pytest.raises(RuntimeError, match="write\\(\\) inside"),
        database.write(),
    ):
        pass
    with database.write() as session:  # the lock is free again
        session.add(study())


@only_sqlite  # PostgreSQL locks rows
def test_another_process_that_holds_the_lock_makes_it_unavailable(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.05)
    first, second = Database(database_url), Database(database_url)
    with first.write(), pytest.raises(Unavailable), second.write():
        pytest.fail("two writers at once")
    first.dispose()
    second.dispose()


def test_concurrent_writers_lose_no_update(database: Database) -> None:
    """Read, then write, from 8 threads: on SQLite only BEGIN IMMEDIATE lets every one through."""
    with database.write() as session:
        session.add(study(id=1))
    errors: list[BaseException] = []

    def count() -> None:
        try:
            for _ in range(20):
                with database.write() as session:
                    row = session.scalars(select(Study).with_for_update()).one()
                    session.execute(update(Study).values(next_number=row.next_number + 1))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.session() as session:
        assert session.scalar(select(Study.next_number)) == 160


def backend(database: Database) -> int:
    with database.session() as session:
        return session.execute(text("SELECT pg_backend_pid()")).scalar_one()


@only_postgresql
def test_an_idle_connection_that_was_cut_is_replaced(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FRESH_SECONDS", 0.0)
    elsewhere = Database(database.url)
    idle = backend(database)
    assert backend(database) == idle
    with elsewhere.session() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": idle})
    elsewhere.dispose()
    assert backend(database) != idle


@only_postgresql
def test_a_connection_cut_a_moment_after_its_use_fails_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FRESH_SECONDS", 1000.0)
    elsewhere = Database(database.url)
    used = backend(database)
    with elsewhere.session() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": used})
    elsewhere.dispose()
    with pytest.raises(Unavailable):
        backend(database)
    assert backend(database) != used


@pytest.mark.parametrize("home", ["/proc/nowhere", "/sys/nowhere", "file/inside"])
def test_a_folder_that_cannot_be_made_is_said(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(InvalidInput, match="nor can it be made"):
        Database(f"sqlite:///{home}/tuner.sqlite")


def test_a_number_beyond_what_it_holds_is_refused(database: Database) -> None:
    with (
        pytest.raises(InvalidInput, match="out of range"),
        database.session() as session,
    ):
        session.get(Study, 10**30)


@pytest.mark.parametrize("size", [5000, 100])
def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path, size: int) -> None:
    file = tmp_path / "tuner.sqlite"
    file.write_bytes(b"no database" * size)
    database = Database(f"sqlite:///{file}")
    with pytest.raises(Unavailable, match="damaged"), database.session() as session:
        session.execute(text("SELECT 1"))
    for way in (database.write, database.peek, database.brief):
        with pytest.raises(Unavailable, match="damaged"), way():
            pass


@only_sqlite  # PostgreSQL looks after its own pages
def test_a_damaged_page_is_unavailable(database_url: str) -> None:
    file = Path(database_url.removeprefix("sqlite:///"))
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    file.write_bytes(content)
    database = Database(database_url)
    with pytest.raises(Unavailable, match="damaged"), database.session() as session:
        session.scalars(select(Study)).all()
    database.dispose()


@only_postgresql  # SQLite knows no users
def test_a_user_who_may_not_is_told_what(database: Database) -> None:
    with database.write() as session:
        session.execute(text("CREATE ROLE nobody_here LOGIN"))
    other = Database(database.url.set(username="nobody_here"))
    try:
        with pytest.raises(Unavailable, match="permission denied"), other.session() as session:
            session.scalars(select(Study)).all()
        with pytest.raises(Unavailable, match="permission denied"), other.brief() as direct:
            direct.run("DELETE FROM studies")
    finally:
        other.dispose()
        with database.write() as session:
            session.execute(text("DROP ROLE nobody_here"))
