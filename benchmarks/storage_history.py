"""Databases with a history for ``storage.py``: studies with finished trials, filled in bulk.

A study is filled once for each kind of database, and copied for each measurement.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, distribution_to_json
from optuna.storages._rdb import models as rdb
from sqlalchemy import URL, Connection, Table, create_engine, event, insert, make_url, text

from tuner import service
from tuner.service.context import Context
from tuner.spec import StudySpec
from tuner.storage import migrate
from tuner.storage.engine import dump_json, parse_url
from tuner.storage.models import Measurement, Study, Trial

STEPS = 10
SPACE: dict[str, dict[str, Any]] = {
    "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "beta1": {"type": "float", "low": 0.8, "high": 0.99},
    "beta2": {"type": "float", "low": 0.9, "high": 0.9999},
    "eps": {"type": "float", "low": 1e-10, "high": 1e-6, "log": True},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True},
    "warmup_fraction": {"type": "float", "low": 0.0, "high": 0.2},
    "label_smoothing": {"type": "float", "low": 0.0, "high": 0.2},
    "clip_norm": {"type": "float", "low": 0.1, "high": 10.0, "log": True},
}
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    name: FloatDistribution(p["low"], p["high"], log=p.get("log", False))
    for name, p in SPACE.items()
}
WRITTEN = {name: distribution_to_json(d) for name, d in DISTRIBUTIONS.items()}
NOW = datetime.now(UTC)

Rows = Sequence[dict[str, Any]]


def loss(params: dict[str, Any]) -> float:
    """A smooth function of the parameters, the best at the middle of each range."""
    total = 0.0
    for name, p in SPACE.items():
        low, high, x = p["low"], p["high"], params[name]
        if p.get("log"):
            low, high, x = math.log(low), math.log(high), math.log(x)
        total += ((x - low) / (high - low) - 0.5) ** 2
    return total


def drawn(n: int) -> list[dict[str, float]]:
    """Parameters of ``n`` finished trials."""
    rng = np.random.default_rng(0)
    columns = {}
    for name, p in SPACE.items():
        low, high = (np.log(p["low"]), np.log(p["high"])) if p.get("log") else (p["low"], p["high"])
        column = rng.uniform(low, high, n)
        columns[name] = np.exp(column) if p.get("log") else column
    return [{name: float(columns[name][i]) for name in SPACE} for i in range(n)]


def bulk(connection: Connection, table: Table, rows: Rows) -> None:
    """Inserts many rows, all with the same columns; by COPY on PostgreSQL."""
    if not rows:
        return
    if connection.dialect.name != "postgresql":
        connection.execute(insert(table), rows)
        return
    names = list(rows[0])
    columns = ", ".join(f'"{name}"' for name in names)
    driver = connection.connection.driver_connection
    with driver.cursor().copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
        for row in rows:
            values = (row[name] for name in names)
            copy.write_row([dump_json(v) if isinstance(v, dict | list) else v for v in values])


# --- the two kinds of study ---------------------------------------------------------------------


def optuna_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's own storage, with what its users can do for its speed.

    On SQLite that is a write-ahead log that is synced at checkpoints only, as we use it; on
    PostgreSQL its defaults, a pool that is not asked whether connections live.
    """
    if make_url(url).get_backend_name() != "sqlite":
        return optuna.storages.RDBStorage(url)
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})

    def prepare(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()
    event.listen(storage.engine, "connect", prepare)
    return storage


def fill_optuna(url: str, n: int, steps: int = STEPS) -> None:
    """A study in Optuna's tables, with ``n`` finished trials of so many reports."""
    storage = optuna_storage(url)
    study = optuna.create_study(storage=storage, study_name="bench")
    params = drawn(n)
    state = optuna.trial.TrialState.COMPLETE.name
    trials = [
        {
            "trial_id": i + 1,
            "number": i,
            "study_id": study._study_id,
            "state": state,
            "datetime_start": NOW,
            "datetime_complete": NOW,
        }
        for i in range(n)
    ]
    suggested = [
        {
            "trial_id": i + 1,
            "param_name": name,
            "param_value": params[i][name],
            "distribution_json": WRITTEN[name],
        }
        for i in range(n)
        for name in SPACE
    ]
    values = [
        {"trial_id": i + 1, "objective": 0, "value": loss(params[i]), "value_type": "FINITE"}
        for i in range(n)
    ]
    curves = [
        {
            "trial_id": i + 1,
            "step": step,
            "intermediate_value": loss(params[i]) + 1 / step,
            "intermediate_value_type": "FINITE",
        }
        for i in range(n)
        for step in range(1, steps + 1)
    ]
    with storage.engine.begin() as connection:
        bulk(connection, rdb.TrialModel.__table__, trials)
        bulk(connection, rdb.TrialParamModel.__table__, suggested)
        bulk(connection, rdb.TrialValueModel.__table__, values)
        bulk(connection, rdb.TrialIntermediateValueModel.__table__, curves)
        if n and connection.dialect.name == "postgresql":
            sequence = "SELECT setval('trials_trial_id_seq', :n)"
            connection.execute(text(sequence), {"n": n})
    analyze(url, n)
    storage.engine.dispose()


def fill_ours(url: str, n: int, sampler: str, steps: int = STEPS) -> None:
    """A study in our tables, with ``n`` finished trials of so many reports."""
    migrate.upgrade(url)
    ctx = Context.open(url)
    spec = StudySpec.parse(
        {
            "name": "bench",
            "task": "digits",
            "space": {"optimizer": "adamw", **SPACE},
            "sampler": {"name": sampler},
            "pruner": "none",
            # One more than is reported: the client ends its trials, as Optuna's does.
            "budget": {"trials": 10**8, "epochs": steps + 1},
        }
    )
    study_id = service.submit(ctx, spec).id
    params = drawn(n)
    trials = [
        {
            "id": i + 1,
            "study_id": study_id,
            "number": i,
            "state": "complete",
            "params": params[i],
            "distributions": WRITTEN,
            "values": [loss(params[i])],
            "seed": 0,
            "origin": "sampled",
            "attempt": 1,
            "paused": False,
            "step": steps,
            "until": steps,
            "note": {"draw": i},
            "revision": 1,
            "user_attrs": {},
            "system_attrs": {},
            "device_seconds": 1.0,
            "created_at": NOW,
            "started_at": NOW,
            "finished_at": NOW,
        }
        for i in range(n)
    ]
    points = [
        {
            "trial_id": i + 1,
            "attempt": 1,
            "step": step,
            "value": loss(params[i]) + 1 / step,
            "samples": 1000 * step,
            "seconds": 0.1 * step,
            "metrics": {"val_loss": loss(params[i]) + 1 / step},
            "created_at": NOW,
        }
        for i in range(n)
        for step in range(1, steps + 1)
    ]
    with ctx.db.write() as session:
        study = session.get_one(Study, study_id)
        study.next_number, study.revision = n, 1
        session.flush()
        bulk(session.connection(), Trial.__table__, trials)
        bulk(session.connection(), Measurement.__table__, points)
        if n and not ctx.db.embedded:
            session.execute(text("SELECT setval('trials_id_seq', :n)"), {"n": n})
    ctx.close()
    analyze(url, n)


def analyze(url: str, n: int) -> None:
    """Tells PostgreSQL's planner what there is, as its daemon would a minute later.

    It looks at no table in which nothing has changed, so of an empty one the planner knows nothing.
    """
    if n and make_url(url).get_backend_name() == "postgresql":
        engine = create_engine(parse_url(url), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ANALYZE"))
        engine.dispose()


# --- the servers --------------------------------------------------------------------------------


class Databases:
    """Makes databases of both kinds, as copies of some that are filled once."""

    def __init__(self, folder: Path, postgres: str | None) -> None:
        self._folder = folder
        self._postgres = None if postgres is None else parse_url(postgres)
        self._made = 0
        self._filled: dict[tuple[Any, ...], str] = {}

    @contextmanager
    def copy(self, kind: str, key: tuple[Any, ...], fill: Callable[[str], None]) -> Iterator[str]:
        """The URL of a copy of the database that ``fill`` filled, gone afterwards."""
        if (kind, *key) not in self._filled:
            template = self._make(kind, None)
            fill(template)
            self._filled[kind, *key] = template
        url = self._make(kind, self._filled[kind, *key])
        yield url
        if kind == "postgresql":
            self._admin(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def setting(self, name: str) -> str:
        """A setting of the PostgreSQL server."""
        return self._admin(f"SHOW {name}")

    def _make(self, kind: str, template: str | None) -> str:
        self._made += 1
        if kind == "sqlite":
            file = self._folder / f"{self._made}.sqlite"
            if template is not None:
                shutil.copy(str(make_url(template).database), file)
            return f"sqlite:///{file}"
        name = f"bench_{self._folder.name.replace('-', '_').lower()}_{self._made}"
        like = "" if template is None else f" TEMPLATE {make_url(template).database}"
        self._admin(f"CREATE DATABASE {name}{like}")
        assert self._postgres is not None
        return self._postgres.set(database=name).render_as_string(hide_password=False)

    def _admin(self, statement: str) -> str:
        assert isinstance(self._postgres, URL)
        engine = create_engine(self._postgres, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            result = connection.execute(text(statement))
            answer = str(result.scalar()) if result.returns_rows else ""
        engine.dispose()
        return answer


@contextmanager
def servers(kinds: Sequence[str], postgres: str | None) -> Iterator[Databases]:
    """Databases of these kinds; a PostgreSQL server of its own (pgserver) unless one is named."""
    with tempfile.TemporaryDirectory(prefix="tuner-bench-") as folder:
        server = None
        if "postgresql" in kinds and postgres is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that XDG_RUNTIME_DIR is not set
                import pgserver  # noqa: PLC0415  (needed only without a server)
            server = pgserver.get_server(tempfile.mkdtemp(prefix="tuner-bench-pg-"), "delete")
            postgres = server.get_uri()
        try:
            yield Databases(Path(folder), postgres)
        finally:
            if server is not None:
                server.cleanup()
