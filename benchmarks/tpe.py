"""Our TPE beside Optuna's: is it as good, and what does a suggestion cost after many trials?

    python benchmarks/tpe.py [--seeds 20] [--trials 60] [--history 1000 10000]

Quality: the best value of so many trials on six functions of four variables, over seeds; two-sided
Mann-Whitney tests, and the common-language effect, the share of pairs in which ours is better (a
half: no difference). Optuna's sampler has the settings that ours implements: multivariate, group,
constant liar.

Cost: processor milliseconds a suggestion of 8 parameters, with so many finished trials in memory,
in batches of 1 and of 16 (Optuna has no batches); storage is no part of it.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import optuna
from scipy.stats import mannwhitneyu

from tuner.search import Budget, Objective, Record, Search
from tuner.spaces import Space

Params = dict[str, Any]
FOUR = Space.parse({f"x{i}": {"type": "float", "low": -2.0, "high": 2.0} for i in range(4)})
EIGHT = Space.parse({f"x{i}": {"type": "float", "low": -2.0, "high": 2.0} for i in range(8)})
BATCHES = (1, 16)
ASKED = 48
"""Suggestions that are timed."""


def sphere(p: Params) -> float:
    return sum((p[f"x{i}"] - 0.3 * i) ** 2 for i in range(4))


def rotated(p: Params) -> float:
    x = np.array([p[f"x{i}"] for i in range(4)])
    return float(10 * (x[0] - x[1]) ** 2 + (x[0] + x[1]) ** 2 + abs(x[2]) + x[3] ** 2)


def rosenbrock(p: Params) -> float:
    x = [p[f"x{i}"] for i in range(4)]
    return sum(100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2 for i in range(3))


def ackley(p: Params) -> float:
    x = np.array([p[f"x{i}"] for i in range(4)])
    a = -20 * np.exp(-0.2 * np.sqrt((x**2).mean()))
    return float(a - np.exp(np.cos(2 * np.pi * x).mean()) + 20 + np.e)


def rastrigin(p: Params) -> float:
    x = np.array([p[f"x{i}"] for i in range(4)])
    return float(40 + (x**2 - 10 * np.cos(2 * np.pi * x)).sum())


def stepped(p: Params) -> float:
    return sum(abs(round(2 * p[f"x{i}"]) - i) for i in range(4)) + 0.01 * p["x0"] ** 2


FUNCTIONS: dict[str, Callable[[Params], float]] = {
    f.__name__: f for f in (sphere, rotated, rosenbrock, ackley, rastrigin, stepped)
}


def searching(space: Space, seed: int) -> Search:
    """Ours."""
    how = ({"name": "tpe"}, {"name": "none"}, [Objective("f")])
    return Search(space, *how, max_step=1, budget=Budget(), seed=seed)


def studying(seed: int) -> optuna.Study:
    """Optuna's."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True
        )
    return optuna.create_study(sampler=sampler)


def complete(number: int, params: Params, value: float, note: dict[str, Any]) -> Record:
    """A trial that has ended."""
    return Record(number, params, "complete", (value,), {1: value}, note=note)


def best_of_ours(name: str, seed: int, trials: int) -> float:
    """The least value of one study."""
    search, values = searching(FOUR, seed), []
    for number in range(trials):
        (found,) = search.suggest(1)
        values.append(FUNCTIONS[name](found.params))
        search.sync([complete(number, found.params, values[-1], found.note)])
    return min(values)


def best_of_optunas(name: str, seed: int, trials: int) -> float:
    """The least value of one study."""
    study, dists = studying(seed), FOUR.distributions()
    for _ in range(trials):
        trial = study.ask(dists)
        study.tell(trial, FUNCTIONS[name](trial.params))
    return float(study.best_value)


def finished(n: int) -> Iterator[tuple[Params, float]]:
    """Trials of some study."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        params = EIGHT.from_unit(rng.random(8))
        yield params, sphere(params)


def cost_of_ours(n: int, batch: int) -> float:
    """Processor milliseconds a suggestion; what was suggested has ended before the next batch."""
    search = searching(EIGHT, 0)
    search.sync(complete(i, *trial, {"draw": i}) for i, trial in enumerate(finished(n)))
    search.suggest(1)  # the first has the history to sort
    spent, number = 0.0, n + 1
    for _ in range(ASKED // batch):
        start = time.process_time()
        found = search.suggest(batch)
        spent += time.process_time() - start
        told = [
            complete(number + i, s.params, sphere(s.params), s.note) for i, s in enumerate(found)
        ]
        search.sync(told)
        number += len(found)
    return 1000 * spent / (ASKED // batch * batch)


def cost_of_optunas(n: int) -> float:
    """Processor milliseconds a suggestion."""
    study, dists = studying(0), EIGHT.distributions()
    study.add_trials(
        optuna.trial.create_trial(params=params, distributions=dists, value=value)
        for params, value in finished(n)
    )
    spent = 0.0
    for _ in range(ASKED):
        start = time.process_time()
        trial = study.ask(dists)
        spent += time.process_time() - start
        study.tell(trial, sphere(trial.params))
    return 1000 * spent / ASKED


def main() -> None:
    """Prints two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--history", nargs="*", type=int, default=[1000, 10_000])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before a child imports numpy
    seeds = range(given.seeds)
    print(f"best of {given.trials} trials, median of {given.seeds} seeds\n")
    print("| function | ours | Optuna's | p (Mann-Whitney, two-sided) | ours better |")
    print("|---|---|---|---|---|")
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        for name in FUNCTIONS:
            args = [name] * given.seeds, seeds, [given.trials] * given.seeds
            ours = list(pool.map(best_of_ours, *args))
            theirs = list(pool.map(best_of_optunas, *args))
            test = mannwhitneyu(ours, theirs)
            better = 1 - test.statistic / given.seeds**2
            medians = f"{np.median(ours):.4g} | {np.median(theirs):.4g}"
            print(f"| {name} | {medians} | {test.pvalue:.2f} | {better:.0%} |", flush=True)
    if given.history:
        print("\nprocessor ms a suggestion\n\n| finished trials | ", end="")
        print(" | ".join(f"ours, {b} at once" for b in BATCHES), "| Optuna's |\n|---|---|---|---|")
    for n in given.history:
        costs = [*(cost_of_ours(n, batch) for batch in BATCHES), cost_of_optunas(n)]
        print(f"| {n} | {' | '.join(f'{cost:.1f}' for cost in costs)} |", flush=True)


if __name__ == "__main__":
    main()
