"""Revisions: what they make is what the models say, up and down, on both databases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Inspector, insert, inspect, select, text

import tuner
from tuner.errors import InvalidInput, SchemaOutdated, Unavailable
from tuner.storage import migrate
from tuner.storage.engine import Database
from tuner.storage.models import Base, Study


def constraints(inspector: Inspector, schema: str | None = None) -> dict[str, dict[str, object]]:
    """Names of all constraints and indexes, with what they say, by table."""
    found: dict[str, dict[str, object]] = {}
    for table in Base.metadata.tables:
        names: dict[str, object] = {}
        for check in inspector.get_check_constraints(table):
            names[str(check["name"])] = check["sqltext"]
        for unique in inspector.get_unique_constraints(table):
            names[str(unique["name"])] = unique["column_names"]
        for key in inspector.get_foreign_keys(table):
            names[str(key["name"])] = (key["constrained_columns"], key["options"])
        for index in inspector.get_indexes(table):
            names[str(index["name"])] = (index["column_names"], index["unique"])
        primary = inspector.get_pk_constraint(table)
        names[str(primary["name"])] = primary["constrained_columns"]
        found[table] = names
    return found


def test_the_migrated_schema_is_the_models(bare_database_url: str) -> None:
    assert migrate.upgrade(bare_database_url) == migrate.head()
    database = Database(bare_database_url)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.dispose()


def test_constraints_are_those_of_the_models(bare_database_url: str) -> None:
    """Compared by what the database itself reports of tables made either way."""
    database = Database(bare_database_url)
    migrate.upgrade(database)
    with database.engine.connect() as connection:
        migrated = constraints(inspect(connection))
    migrate.downgrade(database, "base")
    with database.engine.begin() as connection:
        Base.metadata.create_all(connection)
    with database.engine.connect() as connection:
        modelled = constraints(inspect(connection))
    database.dispose()
    assert migrated == modelled
    assert "ck_trials_paused" in migrated["trials"]


def test_sqlite_tables_are_made_as_the_models_would(tmp_path: Path) -> None:
    """AUTOINCREMENT and WITHOUT ROWID stand only in the text of the table."""
    clauses = []
    for name in ("migrated", "modelled"):
        database = Database(f"sqlite:///{tmp_path / name}")
        if name == "migrated":
            migrate.upgrade(database)
        else:
            with database.engine.begin() as connection:
                Base.metadata.create_all(connection)
        with database.engine.connect() as connection:
            tables = connection.execute(text("SELECT name, sql FROM sqlite_master ORDER BY name"))
            clauses.append(
                {
                    table: ("AUTOINCREMENT" in sql, "WITHOUT ROWID" in sql)
                    for table, sql in tables
                    if table in Base.metadata.tables
                }
            )
        database.dispose()
    assert clauses[0] == clauses[1]
    assert clauses[0]["trials"] == (True, False)


def test_up_and_down_leaves_nothing(bare_database_url: str) -> None:
    assert migrate.current(bare_database_url) is None
    migrate.upgrade(bare_database_url)
    assert migrate.current(bare_database_url) == migrate.head()
    assert migrate.downgrade(bare_database_url, "base") == "base"
    assert migrate.current(bare_database_url) is None
    database = Database(bare_database_url)
    with database.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    database.dispose()


def test_every_revision_goes_down_and_up_again(bare_database_url: str) -> None:
    revisions = [script.revision for script in migrate.revisions()]
    for revision in revisions:
        migrate.upgrade(bare_database_url, revision)
        migrate.downgrade(bare_database_url, "-1")
        assert migrate.upgrade(bare_database_url, revision) == revision


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    assert migrate.upgrade(database_url) == migrate.head()
    migrate.check(database_url)


def test_a_database_without_tables_is_outdated(bare_database_url: str) -> None:
    with pytest.raises(SchemaOutdated, match="tuner db upgrade") as caught:
        migrate.check(bare_database_url)
    assert caught.value.facts == {"found": None, "expected": migrate.head()}


def test_a_server_upgrades_its_own_file_and_no_other(bare_database_url: str, dialect: str) -> None:
    if dialect == "sqlite":
        migrate.prepare(bare_database_url)
        assert migrate.current(bare_database_url) == migrate.head()
    else:
        with pytest.raises(SchemaOutdated, match="tuner db upgrade"):
            migrate.prepare(bare_database_url)
        assert migrate.current(bare_database_url) is None


def test_a_newer_database_is_refused(database_url: str) -> None:
    database = Database(database_url)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    for step in (migrate.check, migrate.upgrade, migrate.prepare):
        with pytest.raises(SchemaOutdated, match="newer version"):
            step(database)
    with pytest.raises(SchemaOutdated, match="newer version"):
        migrate.downgrade(database, "base")
    database.dispose()


def test_an_unknown_revision_is_named(database_url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        migrate.upgrade(database_url, "nonesuch")
    assert caught.value.field == "revision"


def test_an_unreachable_server_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        migrate.current("postgresql://nobody@127.0.0.1:1/nowhere")


def test_servers_that_start_together_upgrade_once(bare_database_url: str) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            migrate.upgrade(bare_database_url)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    migrate.check(bare_database_url)


def test_a_failed_upgrade_leaves_nothing_behind(
    bare_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database whose last table is already taken: the ones made before it must go again."""
    database = Database(bare_database_url)
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE measurements (x INTEGER)"))
    with pytest.raises(Exception, match="measurements"):
        migrate.upgrade(database)
    with database.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == {"measurements"}
    database.dispose()


def test_a_folder_with_a_percent_sign_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "100%"
    migrate.upgrade(f"sqlite:///{path}/tuner.sqlite")
    assert (path / "tuner.sqlite").exists()


def test_a_wheel_carries_the_revisions_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``pyproject.toml`` puts ``migrations/`` there; found first, wherever it was installed."""
    package = tmp_path / "site-packages" / "tuner"
    (package / "_migrations").mkdir(parents=True)
    (package / "_migrations" / "env.py").touch()
    monkeypatch.setattr(tuner, "__file__", str(package / "__init__.py"))
    assert migrate.folder() == package / "_migrations"
    (package / "_migrations" / "env.py").unlink()
    with pytest.raises(RuntimeError, match="no migrations"):
        migrate.folder()


def test_what_a_downgrade_loses_is_named_and_kept(database: Database) -> None:
    with database.write() as session:
        session.execute(
            insert(Study).values(name="a", directions=["minimize"], created_at=datetime.now(UTC))
        )
    tables = constraints(inspect(database.engine)).keys()
    assert migrate.losses(database, migrate.head()) == []
    columns = ["trials.last_token", "trials.lost"]
    assert migrate.losses(database, "0006") == ["receipts (0 rows)", *columns]
    assert migrate.losses(database, "0001")[-3:] == ["studies.lr_range", *columns]
    everything = migrate.losses(database, "base")
    assert "studies (1 row)" in everything
    assert len(everything) == len(Base.metadata.tables)
    with pytest.raises(InvalidInput):
        migrate.losses(database, "nowhere")
    assert migrate.current(database) == migrate.head()
    assert constraints(inspect(database.engine)).keys() == tables
    with database.session() as session:
        assert session.scalar(select(Study.name)) == "a"
