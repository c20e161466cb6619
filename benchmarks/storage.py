"""Cycles a second (ask, 10 reports, tell) through our service and through Optuna's RDBStorage.

All in one run, on SQLite and PostgreSQL, on studies that hold 0, 1,000 and 10,000 finished trials
of 8 parameters and 10 reports, with 1 and 8 clients:

- ``optuna``: ``study.ask`` (8 suggestions), ``trial.report`` x 10, ``study.tell`` on RDBStorage;
  each client is a process of its own.
- ``door``: the same program on ``tuner.storage.SqlStorage``.
- ``single``: our ``ask``, ``report_trial`` x 10 and ``tell``, one trial at a time.
- ``worker``: the form workers use: 16 slots, all reported in one request a round, which also
  brings the next trials.

The last two run as threads of one process, as they do in the server. All use one PostgreSQL server
as it comes, which syncs each commit, and SQLite with a write-ahead log that is synced at
checkpoints: Optuna's default there, a journal that is synced at each commit, is slower. Then the
data of a study's page with the most trials is asked of both, ours and optuna-dashboard's.

    python benchmarks/storage.py --trials 0 10000 --clients 1 8 --seconds 3
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import optuna
import optuna_dashboard
from pydantic import TypeAdapter
from storage_clients import CONTENDERS, SLOTS, Figures
from storage_history import (
    SPACE,
    STEPS,
    Databases,
    fill_optuna,
    fill_ours,
    optuna_storage,
    servers,
)

from tuner import service
from tuner.service.context import Context

NAMES = list(CONTENDERS)


def measured(
    databases: Databases, kind: str, n: int, sampler: str, clients: int, seconds: float
) -> dict[str, Figures]:
    """One row: all contenders, each on a study of its own."""
    theirs = functools.partial(fill_optuna, n=n)
    ours = functools.partial(fill_ours, n=n, sampler=sampler)
    row = {}
    for name, contend in CONTENDERS.items():
        key, fill = (("optuna", n), theirs) if name == "optuna" else (("ours", n, sampler), ours)
        with databases.copy(kind, key, fill) as url:
            row[name] = contend(url, sampler, clients, seconds)
    return row


# --- a study's page -----------------------------------------------------------------------------


def page_of_ours(ctx: Context) -> bytes:
    """What our dashboard reads for a study: its head, a page of trials, the pictures' data."""
    parts = [
        service.show_study(ctx, 1),
        service.list_trials(ctx, 1, limit=100),
        service.curves(ctx, 1, metric="val_loss"),
    ]
    return b"".join(TypeAdapter(type(part)).dump_json(part) for part in parts)


def page_of_dashboard(url: str) -> bytes:
    """optuna-dashboard's detail call, which its study page makes."""
    storage = optuna_storage(url)
    transport = httpx.WSGITransport(app=optuna_dashboard.wsgi(storage))
    with httpx.Client(transport=transport, base_url="http://dashboard") as client:
        content = client.get("/api/studies/1").raise_for_status().content
    storage.engine.dispose()
    return content


def best_of(read: Callable[[], bytes], times: int) -> dict[str, float]:
    """The least milliseconds it took, those of the first time, and its size in bytes."""
    took, size = [], 0
    for _ in range(times):
        began = time.perf_counter()
        size = len(read())
        took.append(1000 * (time.perf_counter() - began))
    return {"ms": min(took), "first_ms": took[0], "bytes": size}


def pages(databases: Databases, kind: str, n: int) -> dict[str, dict[str, float]]:
    """Both pages' data."""
    with databases.copy(
        kind, ("ours", n, "random"), functools.partial(fill_ours, n=n, sampler="random")
    ) as url:
        ctx = Context.open(url)
        ours = best_of(functools.partial(page_of_ours, ctx), 5)
        ctx.close()
    with databases.copy(kind, ("optuna", n), functools.partial(fill_optuna, n=n)) as url:
        theirs = best_of(functools.partial(page_of_dashboard, url), 1)
    return {"tuner": ours, "optuna-dashboard": theirs}


# --- the run ------------------------------------------------------------------------------------


def main() -> None:
    """Runs what the command line asks for, and prints Markdown tables, the first as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--trials", nargs="+", type=int, default=[0, 1000, 10_000])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--seconds", type=float, default=3.0, help="time of each measurement")
    parser.add_argument("--postgres", help="URL of a server; default: one of its own (pgserver)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)

    figures: list[dict[str, Any]] = []
    rows: list[tuple[str, dict[str, Figures]]] = []
    with servers(given.databases, given.postgres) as databases:
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, ", end="")
        print(f"Python {platform.python_version()}, Optuna {optuna.__version__}", end="")
        if "postgresql" in given.databases:
            version, sync = (databases.setting(n) for n in ("server_version", "synchronous_commit"))
            print(f", PostgreSQL {version}, synchronous_commit {sync}", end="")
        print(f"\n\ncycles a second: ask, {STEPS} reports, tell; {len(SPACE)} parameters, ", end="")
        print(f"{SLOTS} slots; beside ours how many times Optuna's\n")
        print(f"| database | sampler | trials | clients | {' | '.join(NAMES)} |")
        print("|---" * (4 + len(NAMES)) + "|")
        cells = itertools.product(given.databases, given.trials, given.samplers, given.clients)
        for kind, n, sampler, clients in cells:
            row = measured(databases, kind, n, sampler, clients, given.seconds)
            place = {"database": kind, "sampler": sampler, "trials": n, "clients": clients}
            figures.append(place | {name: asdict(row[name]) for name in NAMES})
            rows.append((" | ".join(map(str, place.values())), row))
            theirs = row["optuna"].rate
            rates = [f"{theirs:.1f}"]
            rates += [f"{row[n].rate:.1f} ({row[n].rate / theirs:.1f}x)" for n in NAMES[1:]]
            print(f"| {rows[-1][0]} | {' | '.join(rates)} |", flush=True)

        print("\nmedian milliseconds of asking (worker: of the request that brings 16 trials) / ")
        print("processor milliseconds a cycle, without PostgreSQL's own\n")
        print(f"| database | sampler | trials | clients | {' | '.join(NAMES)} |")
        print("|---" * (4 + len(NAMES)) + "|")
        for title, row in rows:
            cells = [f"{row[name].ask_ms:.1f} / {row[name].cpu_ms:.2f}" for name in NAMES]
            print(f"| {title} | {' | '.join(cells)} |")

        most = max(given.trials)
        print(f"\nthe data of a study's page, {most} trials x {STEPS} reports\n")
        print("| database | | ms | the first time | MB |\n|---|---|---|---|---|")
        for kind in given.databases:
            for name, page in pages(databases, kind, most).items():
                figures.append({"database": kind, "page": name} | page)
                print(f"| {kind} | {name} | {page['ms']:.0f} | {page['first_ms']:.0f} ", end="")
                print(f"| {page['bytes'] / 1e6:.2f} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
