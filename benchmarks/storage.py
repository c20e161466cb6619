"""Cycles a second (ask, 10 reports, tell) through our service and through Optuna's RDBStorage.

Both in one run, on SQLite and PostgreSQL, on studies that hold 0, 1,000 and 10,000 finished trials
of 8 parameters and 10 reports, with 1 and 8 clients:

- ``optuna``: ``study.ask`` (8 suggestions), ``trial.report`` x 10, ``study.tell`` on RDBStorage;
  each client is a process of its own.
- ``door``: the same program on ``tuner.storage.SqlStorage``.
- ``single``: our ``ask``, ``report_trial`` x 10 and ``tell``, one trial at a time.
- ``worker``: the form workers use: 16 slots, all reported in one request a round, which also
  brings the next trials.

The last two run as threads of one process, as they do in the server. Then the data of a study's
page with 10,000 trials is asked of both, ours and optuna-dashboard's.

    python benchmarks/storage.py --trials 0 10000 --clients 1 8 --seconds 5
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import os
import platform
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import optuna
import optuna_dashboard
from optuna.distributions import BaseDistribution, FloatDistribution, distribution_to_json
from optuna.storages._rdb import models as rdb
from pydantic import TypeAdapter
from sqlalchemy import create_engine, insert, text

from tuner import service
from tuner.protocol import LeaseRequest, Measured, Report, SlotReport, WorkerHello
from tuner.service.context import Context
from tuner.spec import StudySpec
from tuner.storage import SqlStorage, migrate
from tuner.storage.engine import parse_url
from tuner.storage.models import Measurement, Study, Trial

STEPS = 10
SLOTS = 16
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
NOW = datetime.now(UTC)


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


# --- studies with a history ---------------------------------------------------------------------


def fill_optuna(url: str, n: int, steps: int = STEPS) -> None:
    """A study in Optuna's tables, with ``n`` finished trials of so many reports."""
    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(storage=storage, study_name="bench")
    params = drawn(n)
    ids = range(1, n + 1)
    rows: dict[Any, list[dict[str, Any]]] = {
        rdb.TrialModel: [
            {
                "trial_id": i,
                "number": i - 1,
                "study_id": study._study_id,
                "state": optuna.trial.TrialState.COMPLETE,
                "datetime_start": NOW,
                "datetime_complete": NOW,
            }
            for i in ids
        ],
        rdb.TrialParamModel: [
            {
                "trial_id": i,
                "param_name": name,
                "param_value": params[i - 1][name],
                "distribution_json": distribution_to_json(DISTRIBUTIONS[name]),
            }
            for i in ids
            for name in SPACE
        ],
        rdb.TrialValueModel: [
            {
                "trial_id": i,
                "objective": 0,
                "value": loss(params[i - 1]),
                "value_type": rdb.TrialValueModel.TrialValueType.FINITE,
            }
            for i in ids
        ],
        rdb.TrialIntermediateValueModel: [
            {
                "trial_id": i,
                "step": step,
                "intermediate_value": loss(params[i - 1]) + 1 / step,
                "intermediate_value_type": (
                    rdb.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
                ),
            }
            for i in ids
            for step in range(1, steps + 1)
        ],
    }
    with storage.engine.begin() as connection:
        for model, batch in rows.items():
            if batch:
                connection.execute(insert(model.__table__), batch)
        if n and connection.dialect.name == "postgresql":
            sequence = "SELECT setval('trials_trial_id_seq', :n)"
            connection.execute(text(sequence), {"n": n})
    if n and storage.engine.dialect.name == "postgresql":
        with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
            c.execute(text("ANALYZE"))
    storage.engine.dispose()


def fill_ours(url: str, n: int, sampler: str, steps: int = STEPS) -> tuple[Context, int]:
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
    written = {name: distribution_to_json(d) for name, d in DISTRIBUTIONS.items()}
    with ctx.db.write() as session:
        study = session.get_one(Study, study_id)
        first = study.next_number
        study.next_number, study.revision = first + n, study.revision + 1
        session.flush()
        if n:
            ids = session.scalars(
                insert(Trial).returning(Trial.id, sort_by_parameter_order=True),
                [
                    {
                        "study_id": study_id,
                        "number": first + i,
                        "state": "complete",
                        "params": params[i],
                        "distributions": written,
                        "values": [loss(params[i])],
                        "step": steps,
                        "until": steps,
                        "revision": study.revision,
                        "created_at": NOW,
                        "started_at": NOW,
                        "finished_at": NOW,
                    }
                    for i in range(n)
                ],
            ).all()
            session.execute(
                insert(Measurement),
                [
                    {
                        "trial_id": trial_id,
                        "attempt": 1,
                        "step": step,
                        "value": loss(params[i]) + 1 / step,
                        "metrics": {"val_loss": loss(params[i]) + 1 / step},
                        "created_at": NOW,
                    }
                    for i, trial_id in enumerate(ids)
                    for step in range(1, steps + 1)
                ],
            )
    if not ctx.db.embedded:
        with ctx.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
    return ctx, study_id


# --- clients ------------------------------------------------------------------------------------


def optuna_client(
    url: str, door: bool, sampler: str, seed: int, seconds: float, start: Any, done: Any
) -> None:
    """One process: asks, reports and tells until the time is up."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = SqlStorage(url) if door else optuna.storages.RDBStorage(url)
    made = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}[sampler]
    study = optuna.load_study(study_name="bench", storage=storage, sampler=made(seed=seed))

    def cycle() -> None:
        trial = study.ask()
        for name, p in SPACE.items():
            trial.suggest_float(name, p["low"], p["high"], log=p.get("log", False))
        value = loss(trial.params)
        for step in range(1, STEPS + 1):
            trial.report(value + 1 / step, step)
        study.tell(trial, value)

    cycle()  # reads the history
    start.wait()
    began, cycles = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        cycle()
        cycles += 1
    done.put((cycles, time.perf_counter() - began))


def by_processes(url: str, door: bool, sampler: str, clients: int, seconds: float) -> float:
    """Cycles a second of all client processes together."""
    spawn = multiprocessing.get_context("spawn")
    start, done = spawn.Barrier(clients), spawn.Queue()
    processes = [
        spawn.Process(
            target=optuna_client, args=(url, door, sampler, seed, seconds, start, done), daemon=True
        )
        for seed in range(clients)
    ]
    for process in processes:
        process.start()
    rates = [cycles / took for cycles, took in (done.get(timeout=600) for _ in processes)]
    for process in processes:
        process.join()
    return float(sum(rates))


def single(ctx: Context, study_id: int) -> Iterator[int]:
    """One trial at a time, by a user's own loop."""
    while True:
        asked = service.ask(ctx, study_id, 1)[0]
        value = loss(asked.config)
        for step in range(1, STEPS + 1):
            metrics = {"val_loss": value + 1 / step}
            service.report_trial(
                ctx, asked.trial_id, asked.token, Measured(step=step, metrics=metrics)
            )
        service.tell(ctx, asked.trial_id, asked.token, values=[value])
        yield 1


def worker(ctx: Context, study_id: int) -> Iterator[int]:
    """A population of slots, all reported in one request a round."""
    me = service.register_worker(ctx, WorkerHello(name="w", tasks=["digits"], slots=SLOTS))
    leased = service.lease(ctx, me.worker_id, LeaseRequest(k=SLOTS, prefer=study_id)).leased
    while True:
        losses = {slot.trial_id: loss(slot.config) for slot in leased}
        for step in range(1, STEPS + 1):
            last = step == STEPS
            slots = [
                SlotReport(
                    trial_id=slot.trial_id,
                    token=slot.token,
                    measurements=[
                        Measured(
                            step=step,
                            metrics=dict.fromkeys(slot.metrics, losses[slot.trial_id] + 1 / step),
                        )
                    ],
                    outcome="complete" if last else "",
                )
                for slot in leased
            ]
            news = Report(slots=slots, prefer=study_id)  # each slot freed is refilled
            answer = service.report(ctx, me.worker_id, news)
        if [verdict.action for verdict in answer.verdicts] != ["finish"] * SLOTS:
            raise RuntimeError(f"not all finished: {answer.verdicts}")
        leased = answer.leased
        yield SLOTS


def by_threads(
    ctx: Context,
    study_id: int,
    client: Callable[[Context, int], Iterator[int]],
    clients: int,
    seconds: float,
) -> float:
    """Cycles a second of all clients together, as threads of one server."""
    start, rates = threading.Barrier(clients), []

    def run() -> None:
        cycles, count = client(ctx, study_id), 0
        next(cycles)  # reads the history
        start.wait()
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            count += next(cycles)
        rates.append(count / (time.perf_counter() - began))

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(rates) < clients:
        raise RuntimeError("a client failed; see above")
    return sum(rates)


# --- a study's page -----------------------------------------------------------------------------


def page_of_ours(ctx: Context, study_id: int) -> bytes:
    """What our dashboard reads for a study: its head, a page of trials, thinned curves."""
    parts = [
        service.show_study(ctx, study_id),
        service.list_trials(ctx, study_id, limit=100),
        service.curves(ctx, study_id, metric="val_loss"),
    ]
    return b"".join(TypeAdapter(type(part)).dump_json(part) for part in parts)


def page_of_dashboard(url: str) -> bytes:
    """optuna-dashboard's detail call, which its study page makes."""
    storage = optuna.storages.RDBStorage(url)
    transport = httpx.WSGITransport(app=optuna_dashboard.wsgi(storage))
    with httpx.Client(transport=transport, base_url="http://dashboard") as client:
        content = client.get("/api/studies/1").raise_for_status().content
    storage.engine.dispose()
    return content


def best_of(read: Callable[[], bytes], times: int) -> tuple[float, int]:
    """The least milliseconds it took, and its size in bytes."""
    took, size = [], 0
    for _ in range(times):
        began = time.perf_counter()
        size = len(read())
        took.append(time.perf_counter() - began)
    return min(took) * 1000, size


# --- the run ------------------------------------------------------------------------------------


@contextmanager
def databases(wanted: list[str], postgres: str | None) -> Iterator[Callable[[str], str]]:
    """A function that makes a new, empty database of a kind and says its URL."""
    with tempfile.TemporaryDirectory(prefix="tuner-bench-") as folder:
        server = None
        if "postgresql" in wanted and postgres is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that XDG_RUNTIME_DIR is not set
                import pgserver  # noqa: PLC0415  (needed only without --postgres)
            server = pgserver.get_server(tempfile.mkdtemp(prefix="tuner-bench-pg-"), "delete")
            postgres = server.get_uri()
        made = 0

        def make(kind: str) -> str:
            nonlocal made
            made += 1
            if kind == "sqlite":
                return f"sqlite:///{folder}/{made}.sqlite"
            admin = create_engine(parse_url(str(postgres)), isolation_level="AUTOCOMMIT")
            with admin.connect() as connection:
                connection.execute(text(f"CREATE DATABASE bench_{time.time_ns()}_{made}"))
                name = connection.execute(
                    text("SELECT datname FROM pg_database ORDER BY oid DESC LIMIT 1")
                ).scalar_one()
            admin.dispose()
            return parse_url(str(postgres)).set(database=name).render_as_string(hide_password=False)

        try:
            yield make
        finally:
            if server is not None:
                server.cleanup()


def main() -> None:
    """Runs what the command line asks for, and prints a table as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--trials", nargs="+", type=int, default=[0, 1000, 10_000])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--seconds", type=float, default=5.0, help="time of each cell")
    parser.add_argument("--postgres", help="URL of a server; default: one of its own (pgserver)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"Python {platform.python_version()}, Optuna {optuna.__version__}")
    print(f"cycles a second: ask, {STEPS} reports, tell; {len(SPACE)} parameters; {SLOTS} slots\n")
    print(f"{'database':<11}{'sampler':<8}{'trials':>7}{'clients':>8}", end="")
    print(f"{'optuna':>9}{'door':>9}{'single':>9}{'worker':>9}   single/worker to optuna")
    figures: list[dict[str, Any]] = []
    with databases(given.databases, given.postgres) as make:
        for kind, n, sampler in itertools.product(given.databases, given.trials, given.samplers):
            for clients in given.clients:
                theirs, ours = make(kind), make(kind)
                fill_optuna(theirs, n)
                ctx, study_id = fill_ours(ours, n, sampler)
                row = {
                    "optuna": by_processes(theirs, False, sampler, clients, given.seconds),
                    "single": by_threads(ctx, study_id, single, clients, given.seconds),
                    "worker": by_threads(ctx, study_id, worker, clients, given.seconds),
                }
                ctx.close()
                ours = make(kind)
                ctx, _ = fill_ours(ours, n, sampler)
                ctx.close()
                row["door"] = by_processes(ours, True, sampler, clients, given.seconds)
                figures.append(
                    {"database": kind, "sampler": sampler, "trials": n, "clients": clients} | row
                )
                print(f"{kind:<11}{sampler:<8}{n:>7}{clients:>8}", end="")
                for name in ("optuna", "door", "single", "worker"):
                    print(f"{row[name]:>9.1f}", end="")
                by_single, by_worker = row["single"] / row["optuna"], row["worker"] / row["optuna"]
                print(f"   {by_single:5.1f}x {by_worker:6.1f}x", flush=True)

        print(f"\nthe data of a study's page, {max(given.trials)} trials x {STEPS} reports")
        for kind in given.databases:
            theirs, ours = make(kind), make(kind)
            fill_optuna(theirs, max(given.trials))
            ctx, study_id = fill_ours(ours, max(given.trials), "random")
            mine = best_of(functools.partial(page_of_ours, ctx, study_id), 5)
            dashboard = best_of(functools.partial(page_of_dashboard, theirs), 1)
            ctx.close()
            for name, (milliseconds, size) in (("tuner", mine), ("optuna-dashboard", dashboard)):
                figures.append({"database": kind, "page": name, "ms": milliseconds, "bytes": size})
                print(f"{kind:<11}{name:<18}{milliseconds:>9.1f} ms{size / 1e6:>9.2f} MB")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
