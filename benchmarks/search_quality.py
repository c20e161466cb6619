"""How good is a search after so many epochs? Ours beside Optuna's, on recorded learning curves.

    python benchmarks/search_quality.py [--curves DIR] [--seeds 10] [--workers K] [--noise X]
        [--only NAME ...]
    python benchmarks/search_quality.py --real [--seeds 5]

Every ``*.npz`` of the folder is one task: ``hp`` [n, D] with ``hp_names``, and ``valid`` [n, 1 +
T], the loss of each recorded run before training and after each of T epochs. A suggestion is
answered with the nearest recorded configuration that was not tried yet (Euclidean in the logs), its
curve is shown epoch by epoch, and the searcher is told that configuration as the one it tried: all
searchers alike.

Regret = (lowest loss seen - best of the table) / (loss of chance - best of the table), capped at 1;
its mean over tasks and seeds at 200, 500 and 1,000 epochs, with 95 % bootstrap intervals over runs.
Several workers run in lockstep: of 16, no trial is beyond its 13th epoch when 200 are spent. So
their table begins with the regret of one who tries all that is recorded at once.
No setting was fitted to these curves, though two changes of the search (blind draws in the race,
the kernel's start values) came from watching it on them; the priors were written before.

With ``--noise`` normal noise is added to every loss that a searcher sees; it is judged by the
losses as recorded.

With ``--real`` each suggestion is trained instead (:mod:`search_trained`), with the priors that the
optimizers declare, and the mean of the lowest validation loss is shown for each study.

The cost of a decision is processor time of the last fifth of a run, when all that it will ever know
is in; fits of our model, which a server makes beside its requests, are not in it.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
from search_contenders import CONTENDERS, QUICK
from search_courses import Problem, Table
from search_trained import REAL, Trained


@dataclass(frozen=True)
class Job:
    """One run of one searcher on one problem."""

    contender: str
    problem: Path | str
    seed: int
    workers: int
    noise: float

    def run(self) -> tuple[list[float], list[float]]:
        """Its scores, and the processor seconds of its late decisions."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")  # Optuna announces experimental classes
        problem: Problem = (
            Table.load(self.problem, self.noise, self.seed)
            if isinstance(self.problem, Path)
            else Trained(self.problem, self.seed)
        )
        contender = CONTENDERS[self.contender]
        meter = contender.run(problem, self.seed, self.workers, *contender.how)
        return meter.scores(), meter.seconds


def interval(runs: np.ndarray) -> Iterator[str]:
    """Mean and 95 % bootstrap interval of each column."""
    rng = np.random.default_rng(0)
    means = runs[rng.integers(len(runs), size=(2000, len(runs)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    for m, a, b in zip(runs.mean(0), low, high, strict=True):
        yield f"{m:.3f} [{a:.3f}, {b:.3f}]"


def show(
    pool: ProcessPoolExecutor,
    names: list[str],
    problems: list[Path | str],
    given: argparse.Namespace,
) -> None:
    """A table: a row a searcher, over all these problems and all seeds."""
    marks = Trained.marks if given.real else Table.marks
    head = " | ".join(f"{m} epochs" for m in marks)
    print(f"| searcher | {head} | CPU ms a late decision, median (p99) |\n|---|{'---|' * 4}")
    if given.workers > 1 and not given.real:
        floors = np.array([Table.load(Path(path)).floor(given.workers) for path in problems])
        print(f"| (all there is, in so few rounds) | {' | '.join(interval(floors))} | |")
    for name in names:
        jobs = [
            Job(name, problem, seed, given.workers, given.noise)
            for problem in problems
            for seed in range(given.seeds)
        ]
        results = list(pool.map(Job.run, jobs))
        scores = np.array([s for s, _ in results])
        ms = 1e3 * np.concatenate([seconds for _, seconds in results])
        timing = f"{np.median(ms):.1f} ({np.quantile(ms, 0.99):.0f})" if ms.size else ""
        print(f"| {name} | {' | '.join(interval(scores))} | {timing} |", flush=True)


def main() -> None:
    """Runs what the command line asks for, and prints Markdown tables, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "curves"
    parser.add_argument("--curves", type=Path, default=default)
    parser.add_argument("--real", action="store_true", help="train instead")
    parser.add_argument("--quick", action="store_true", help="four searchers, three seeds")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="in lockstep")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="of each recorded loss; 1: from best to chance"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS), help="names of searchers")
    given = parser.parse_args()
    if given.quick:
        given.seeds = min(given.seeds, 3)
    names = given.only or list(QUICK if given.quick or given.real else CONTENDERS)
    recorded = sorted(given.curves.glob("*.npz"))
    if not recorded and not given.real:
        raise SystemExit(f"no curves (*.npz) in {given.curves}")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before a child imports numpy
    over = f"{given.seeds} seeds, {given.workers} worker(s), noise {given.noise}; mean [95 %]"
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        table = partial(show, pool, names, given=given)
        if not given.real:
            print(f"regret on {len(recorded)} tasks, {over}\n")
            table(list(recorded))
        for study in REAL if given.real else ():
            print(f"\n{study}: lowest validation loss, {over}\n")
            table([study])


if __name__ == "__main__":
    main()
