"""How good is a search after so many epochs? Ours beside Optuna's, on recorded learning curves.

    python benchmarks/search_quality.py [--curves DIR] [--quick] [--workers K] [--only NAME ...]

Every ``*.npz`` of the folder is one task: ``hp`` [n, D] with ``hp_names``, and ``valid`` [n, 1 +
T], the loss of each recorded run before training and after each of T epochs. A suggestion is
answered with the nearest recorded configuration that was not tried yet (Euclidean in the logs), its
curve is shown epoch by epoch, and the searcher is told that configuration as the one it tried: all
searchers alike.

Regret = (lowest loss seen - best of the table) / (loss of chance - best of the table), capped at 1;
its mean over tasks and seeds at 200, 500 and 1,000 epochs, with 95 % bootstrap intervals over runs.
No setting was fitted to these curves, though two changes of the search (blind draws in the race,
the kernel's start values) came from watching it on them; the priors were written before.
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from tuner.search import Budget, Objective, Record, Search
from tuner.spaces import Prior, Space

MARKS = (200, 500, 1000)
COMPLEMENT = ("beta1", "beta2")
PRIORS = {
    "learning_rate": Prior(1e-3, 1.0, "log"),
    "beta1": Prior(0.1, 0.7, "log"),
    "beta2": Prior(3e-3, 1.0, "log"),
    "epsilon": Prior(1e-8, 2.0, "log"),
    "l1": Prior(1e-6, 1.5, "log"),
    "l2": Prior(1e-6, 1.5, "log"),
}
"""Of Adam, as in tuner.optimizers; decay rates as their distance from 1."""


@dataclass(frozen=True)
class Table:
    """One task."""

    name: str
    names: tuple[str, ...]
    points: np.ndarray  # [n, D], positive
    curves: np.ndarray  # [n, T]
    chance: float
    best: float

    @classmethod
    def load(cls, path: Path) -> Table:
        """Reads one file; decay rates become their distance from 1."""
        with np.load(path) as data:
            names = tuple(str(n) for n in data["hp_names"])
            hp = data["hp"].astype(float)
            curves = data["valid"].astype(float)
        for j, name in enumerate(names):
            if name in COMPLEMENT:
                hp[:, j] = np.maximum(1.0 - hp[:, j], 1e-7)
        return cls(
            path.stem, names, hp, curves[:, 1:], math.log(2), float(np.nanmin(curves[:, 1:]))
        )

    def space(self, priors: bool, misled: float = 1.0) -> Space:
        """The ranges of the table; ``misled`` times the learning rate's prior centre."""
        raw: dict[str, Any] = {}
        for j, name in enumerate(self.names):
            low, high = self.points[:, j].min(), self.points[:, j].max()
            raw[name] = {"type": "float", "low": float(low), "high": float(high), "log": True}
            if priors and name in PRIORS:
                p = PRIORS[name]
                shift = misled if name == "learning_rate" else 1.0
                center = min(max(p.center * shift, low), high)
                raw[name]["prior"] = {"center": center, "spread": p.spread}
        return Space.parse(raw)

    def nearest(self, params: dict[str, Any], free: np.ndarray) -> int:
        """The row nearest to ``params`` among those not tried."""
        logs = np.log(self.points)
        at = np.log([params[n] for n in self.names])
        width = logs.max(0) - logs.min(0)
        far = (((logs - at) / width) ** 2).sum(1)
        return int(np.argmin(np.where(free, far, np.inf)))

    def params(self, row: int) -> dict[str, float]:
        """The configuration of a row."""
        return {n: float(v) for n, v in zip(self.names, self.points[row], strict=True)}


class Meter:
    """The lowest loss after each epoch spent."""

    def __init__(self, table: Table, epochs: int) -> None:
        self.table, self.epochs = table, epochs
        self.seen: list[float] = []

    @property
    def full(self) -> bool:
        """Whether all epochs are spent."""
        return len(self.seen) >= self.epochs

    def spend(self, value: float) -> None:
        """One epoch and the loss after it."""
        best = self.seen[-1] if self.seen else math.inf
        self.seen.append(min(best, value) if math.isfinite(value) else best)

    def regret(self) -> list[float]:
        """At each mark."""
        t = self.table
        out = [(self.seen[m - 1] - t.best) / (t.chance - t.best) for m in MARKS if m <= self.epochs]
        return [min(r, 1.0) for r in out]


class Replay:
    """One run of our search, ``workers`` in lockstep; records are kept as a service would."""

    def __init__(self, table: Table, search: Search, meter: Meter, workers: int) -> None:
        self.table, self.search, self.meter, self.workers = table, search, meter, workers
        self.free = np.ones(len(table.points), dtype=bool)
        self.records: dict[int, Record] = {}
        self.row_of: dict[int, int] = {}
        self.slots: list[int] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        """To the last epoch."""
        while not self.meter.full:
            self.lease()
            if not self.slots:
                break
            for number in list(self.slots):
                if not self.meter.full:
                    self.step(number)
        while not self.meter.full:
            self.meter.spend(math.inf)

    def lease(self) -> None:
        """Fills the free slots; the model is fitted beforehand, as a background thread would."""
        wanted = self.workers - len(self.slots)
        if not wanted:
            return
        if self.search.stale:
            self.search.refit()
        start = time.process_time()
        suggestions = self.search.suggest(wanted)
        self.seconds.append((time.process_time() - start) / max(len(suggestions), 1))
        for s in suggestions:
            number = len(self.records) if s.number is None else s.number
            if s.number is None:
                row = self.row_of[number] = self.table.nearest(s.params, self.free)
                self.free[row] = False
                self.records[number] = Record(number, self.table.params(row), note=s.note)
            self.change(number, state="running", busy=True, paused=False, until=s.until)
            self.slots.append(number)
        self.search.sync(self.records[n] for n in self.slots)

    def change(self, number: int, **changes: Any) -> None:
        """Writes a record."""
        self.records[number] = replace(self.records[number], **changes)

    def step(self, number: int) -> None:
        """One epoch of one trial."""
        curve = self.records[number].curve
        step = max(curve, default=0) + 1
        value = float(self.table.curves[self.row_of[number], step - 1])
        self.meter.spend(value)
        verdict = self.search.observe(number, step, value)
        if math.isfinite(value):
            curve = {**curve, step: value}
            self.change(number, curve=curve, until=verdict.until)
        if verdict.action == "continue":
            return
        self.slots.remove(number)
        if verdict.action == "pause":
            self.change(number, paused=True, busy=False)
            return
        state: Any = "complete" if verdict.action == "finish" else "pruned"
        state = "fail" if verdict.reason == "diverged" else state
        values = (min(curve.values()),) if state == "complete" else None
        self.search.finish(number, state, values, verdict.reason)
        self.change(number, state=state, values=values, reason=verdict.reason, busy=False)


def ours(
    table: Table,
    seed: int,
    epochs: int,
    workers: int,
    sampler: dict[str, Any],
    pruner: dict[str, Any],
    priors: bool,
    misled: float = 1.0,
) -> tuple[list[float], list[float]]:
    """One run of our search: regrets, and the CPU seconds of each decision."""
    search = Search(
        table.space(priors, misled),
        sampler,
        pruner,
        [Objective("loss")],
        max_step=table.curves.shape[1],
        budget=Budget(total_epochs=epochs),
        seed=seed,
    )
    meter = Meter(table, epochs)
    replay = Replay(table, search, meter, workers)
    replay.run()
    return meter.regret(), replay.seconds


def optunas(
    table: Table,
    seed: int,
    epochs: int,
    make_sampler: Callable[[int], optuna.samplers.BaseSampler],
    make_pruner: Callable[[int], optuna.pruners.BasePruner],
) -> tuple[list[float], list[float]]:
    """One run of an Optuna pairing, one worker."""
    limit = table.curves.shape[1]
    study = optuna.create_study(sampler=make_sampler(seed), pruner=make_pruner(limit))
    dists = table.space(False).distributions()
    meter = Meter(table, epochs)
    free = np.ones(len(table.points), dtype=bool)
    seconds: list[float] = []
    while not meter.full and free.any():
        start = time.process_time()
        trial = study.ask(dists)
        seconds.append(time.process_time() - start)
        row = table.nearest(trial.params, free)
        free[row] = False
        for name, value in table.params(row).items():  # told what was tried, as ours is
            study._storage.set_trial_param(trial._trial_id, name, value, dists[name])
        best, state = math.inf, optuna.trial.TrialState.COMPLETE
        for step in range(1, limit + 1):
            value = float(table.curves[row, step - 1])
            meter.spend(value)
            if not math.isfinite(value):
                state = optuna.trial.TrialState.FAIL
                break
            best = min(best, value)
            trial.report(value, step)
            if meter.full:
                break
            if step < limit and trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        if state == optuna.trial.TrialState.FAIL and math.isfinite(best):
            state = optuna.trial.TrialState.PRUNED  # so that its sampler learns from it
        complete = state == optuna.trial.TrialState.COMPLETE
        study.tell(trial, best if complete else None, state=state)
    while not meter.full:
        meter.spend(math.inf)
    return meter.regret(), seconds


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def gp(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed)


def random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def halving(limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


def hyperband(limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.HyperbandPruner(1, limit, 3)


def median(limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner()


def nop(limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.NopPruner()


AUTO = ({"name": "auto"}, {"name": "auto"})
OURS: dict[str, tuple[Any, ...]] = {
    "auto + auto, priors": (*AUTO, True),
    "auto + auto": (*AUTO, False),
    "auto + auto, prior lr 100x low": (*AUTO, True, 0.01),
    "auto + asha, priors": ({"name": "auto"}, {"name": "asha"}, True),
    "tpe + asha": ({"name": "tpe"}, {"name": "asha"}, False),
    "random + asha": ({"name": "random"}, {"name": "asha"}, False),
    "random + hyperband": ({"name": "random"}, {"name": "hyperband"}, False),
    "tpe + median": ({"name": "tpe"}, {"name": "median"}, False),
    "tpe + none": ({"name": "tpe"}, {"name": "none"}, False),
}
THEIRS: dict[str, tuple[Any, Any]] = {
    "Optuna TPE + halving": (tpe, halving),
    "Optuna TPE + hyperband": (tpe, hyperband),
    "Optuna TPE + median": (tpe, median),
    "Optuna TPE": (tpe, nop),
    "Optuna random + halving": (random, halving),
    "Optuna GP + median": (gp, median),
    "Optuna GP": (gp, nop),
}
QUICK = ("auto + auto, priors", "auto + auto", "random + asha", "Optuna TPE + halving")


def one(job: tuple[str, Path, int, int, int]) -> tuple[list[float], list[float]]:
    """One run of one searcher on one task."""
    name, path, seed, epochs, workers = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")  # Optuna announces experimental classes
    table = Table.load(path)
    if name in OURS:
        return ours(table, seed, epochs, workers, *OURS[name])
    return optunas(table, seed, epochs, *THEIRS[name])


def interval(runs: np.ndarray) -> Iterator[str]:
    """Mean and 95 % bootstrap interval of each column."""
    rng = np.random.default_rng(0)
    means = runs[rng.integers(len(runs), size=(2000, len(runs)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    for m, a, b in zip(runs.mean(0), low, high, strict=True):
        yield f"{m:.3f} [{a:.3f}, {b:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "curves"
    parser.add_argument("--curves", type=Path, default=default)
    parser.add_argument("--quick", action="store_true", help="four searchers, three seeds")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="of our searchers, in lockstep")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="*", help="names of searchers")
    args = parser.parse_args()
    paths = sorted(args.curves.glob("*.npz"))
    if not paths:
        raise SystemExit(f"no curves (*.npz) in {args.curves}")
    names = list(OURS) + (list(THEIRS) if args.workers == 1 else [])
    if args.quick:
        names, args.seeds = [n for n in names if n in QUICK], min(args.seeds, 3)
    if args.only:
        names = [n for n in (*OURS, *THEIRS) if n in args.only]
    head = " | ".join(f"{m} epochs" for m in MARKS)
    print(f"{len(paths)} tasks, {args.seeds} seeds, {args.workers} worker(s); mean regret [95 %]\n")
    print(f"| searcher | {head} | CPU ms a decision, median (p99) |\n|---|{'---|' * 4}")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before a child imports numpy
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        for name in names:
            jobs = [
                (name, path, seed, MARKS[-1], args.workers)
                for path in paths
                for seed in range(args.seeds)
            ]
            results = list(pool.map(one, jobs))
            regrets = np.array([r for r, _ in results])
            ms = 1e3 * np.concatenate([s for _, s in results])
            cells = " | ".join(interval(regrets))
            timing = f"{np.median(ms):.1f} ({np.quantile(ms, 0.99):.0f})"
            print(f"| {name} | {cells} | {timing} |", flush=True)


if __name__ == "__main__":
    main()
