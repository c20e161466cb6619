"""Every registered optimizer, tuned with the same small budget on three real tasks.

Each optimizer's learning rate is searched within its own default range; all else is its default.
Then its best rate is trained with fresh seeds, which are the same for all optimizers, so that
differences are paired. Both halves are studies of the service itself, on a temporary database.

    python benchmarks/optimizer_zoo.py --data ../shared/data > zoo.md
    python benchmarks/optimizer_zoo.py --quick --tasks digits --optimizers adamw sgd

With ``--minutes`` each task gets its share of them: three fifths to tune, the rest for the seeds. A
study that the clock ended early says so in the column of trials. ``--csv FILE`` keeps all curves.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from tuner import optimizers, service
from tuner.service import Context, TrialView
from tuner.spec import StudySpec
from tuner.storage import migrate
from tuner.worker.local import run_study

TUNING_SHARE = 0.6
REFERENCE = "adamw"
BARS = "▁▂▃▄▅▆▇█"
OVER = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Problem:
    """A task with the length of its trainings.

    Args:
        task: As in a study file.
        constants: Of the space.
        epochs: Of a full training.
        eval_every: Epochs between two points of a curve.
        share: Of the time.
    """

    task: Mapping[str, Any]
    constants: Mapping[str, Any]
    epochs: int
    eval_every: float
    share: float


@dataclass
class Result:
    """What became of one optimizer on one problem."""

    optimizer: str
    lr: float | None = None
    trials: int = 0
    device_seconds: float = 0.0
    losses: dict[int, float] = field(default_factory=dict)
    """Last validation loss by seed."""
    accuracies: dict[int, float] = field(default_factory=dict)
    curves: dict[int, list[tuple[int, float, float]]] = field(default_factory=dict)
    """Samples, loss and accuracy of each evaluation, by seed."""


class Zoo:
    """Runs studies on one database until the time is up.

    Args:
        folder: For the database and checkpoints.
        processes: Workers; one a core by default.
    """

    def __init__(self, folder: Path, processes: int | None) -> None:
        url = f"sqlite:///{folder}/zoo.sqlite"
        migrate.prepare(url)
        self.context = Context.open(url)
        self.folder = folder
        self.processes = processes

    def run(self, studies: Sequence[int], seconds: float) -> None:
        """Trains studies side by side; those that the clock outruns are stopped."""
        stop = threading.Event()
        if seconds <= 0:
            stop.set()
        clock = threading.Timer(max(seconds, 0.0), stop.set)
        clock.daemon = True
        clock.start()
        try:
            for study in studies:
                state = service.show_study(self.context, study).state
                if state in OVER or stop.is_set():
                    continue
                # Its workers take trials of the other studies too, each in its turn.
                run_study(
                    self.context,
                    study,
                    home=self.folder,
                    device="cpu",
                    processes=self.processes,
                    stop=stop,
                )
        finally:
            clock.cancel()
        for study in studies:
            if service.show_study(self.context, study).state not in OVER:
                service.cancel_study(self.context, study)

    def tune(self, problem: Problem, names: Sequence[str], trials: int, seconds: float) -> Any:
        """Searches each optimizer's learning rate; results without seeds yet."""
        found = {name: Result(name) for name in names}
        studies = {name: self._submit(problem, name, trials) for name in names}
        self.run(list(studies.values()), seconds)
        for name, study in studies.items():
            everyone = service.list_trials(self.context, study, limit=1000).items
            found[name].trials = sum(t.state in ("complete", "pruned") for t in everyone)
            found[name].device_seconds = sum(t.device_seconds for t in everyone)
            best = service.best(self.context, study)
            if best:
                found[name].lr = float(best[0].config["lr"])
        return found

    def repeat(
        self, problem: Problem, found: Mapping[str, Result], seeds: int, seconds: float
    ) -> None:
        """Trains each best rate with several seeds, one study a seed, all optimizers in it."""
        chosen = {r.optimizer: r.lr for r in found.values() if r.lr is not None}
        if not chosen:
            return
        rates = list(chosen.values())
        studies = {}
        for seed in range(1, seeds + 1):
            space = {
                **problem.constants,
                "optimizer": {"type": "categorical", "choices": [*chosen]},
                "lr": {"type": "float", "low": min(rates) / 2, "high": max(rates) * 2, "log": True},
                "schedule": {"type": "categorical", "choices": ["cosine", "constant"]},
            }
            study = self._study(problem, f"seed-{seed}", space, len(chosen), "manual", seed)
            configs = [
                {"optimizer": name, "lr": lr, "schedule": schedule(name)}
                for name, lr in chosen.items()
            ]
            service.enqueue(self.context, study, configs)
            studies[seed] = study
        self.run(list(studies.values()), seconds)
        for seed, study in studies.items():
            for trial in service.list_trials(self.context, study, limit=1000).items:
                if trial.state == "complete":
                    self._take(found[str(trial.config["optimizer"])], seed, trial)

    def _take(self, result: Result, seed: int, trial: TrialView) -> None:
        points = service.measurements(self.context, trial.id)
        curve = [
            (
                p.samples or 0,
                _number(p.metrics.get("val_loss")),
                _number(p.metrics.get("val_accuracy")),
            )
            for p in points
        ]
        result.curves[seed] = curve
        result.losses[seed], result.accuracies[seed] = curve[-1][1], curve[-1][2]

    def _submit(self, problem: Problem, name: str, trials: int) -> int:
        low, high = optimizers.get(name).hyper["lr"].search or (1e-5, 1e-1)
        space = {
            **problem.constants,
            "optimizer": name,
            "lr": {"type": "float", "low": low, "high": high, "log": True},
            "schedule": schedule(name),
        }
        return self._study(problem, f"tune-{name}", space, trials, "auto", 0)

    def _study(
        self,
        problem: Problem,
        name: str,
        space: Mapping[str, Any],
        trials: int,
        sampler: str,
        seed: int,
    ) -> int:
        spec = {
            "name": f"{problem.task['name']}-{name}",
            "task": problem.task,
            "space": space,
            "sampler": sampler,
            "pruner": "none" if sampler == "manual" else "auto",
            "budget": {"trials": trials, "epochs": problem.epochs},
            "eval_every": problem.eval_every,
            "seed": seed,
        }
        return service.submit(self.context, StudySpec.parse(spec)).id


def schedule(name: str) -> str:
    """Cosine, but constant for rules that average their weights instead of lowering the rate."""
    return "constant" if optimizers.get(name).eval_mode else "cosine"


def problems(arguments: argparse.Namespace, folder: Path) -> dict[str, Problem]:
    """The tasks, as small as asked for; a text is cut to its beginning."""
    quick = arguments.quick
    data = Path(arguments.data)
    found = {
        "digits": Problem(
            {"name": "digits"},
            {"batch_size": 32, "model.hidden": 64},
            epochs=2 if quick else 10,
            eval_every=1.0,
            share=0.2,
        )
    }
    if (data / "fashion-mnist").is_dir():
        limit = 600 if quick else arguments.pictures
        params = {"path": str(data / "fashion-mnist"), "limit": limit}
        found["fashion-mnist"] = Problem(
            {"name": "images", "params": params},
            {"batch_size": 32, "model.width": 8, "model.hidden": 32},
            epochs=1 if quick else 3,
            eval_every=0.5,
            share=0.4,
        )
    source = data / "tinyshakespeare" / "input.txt"
    if source.is_file():
        text = folder / "tinyshakespeare.txt"
        text.write_bytes(source.read_bytes()[: 20_000 if quick else arguments.text_bytes])
        found["tiny-shakespeare"] = Problem(
            {"name": "text", "params": {"path": str(text), "window": 64}},
            {"batch_size": 16, "model.width": 32, "model.sequence": 64},
            epochs=1 if quick else 3,
            eval_every=0.5,
            share=0.4,
        )
    return {name: p for name, p in found.items() if name in (arguments.tasks or found)}


def table(found: Mapping[str, Result]) -> list[str]:
    """A Markdown table, the best first: means with 95 % intervals of Student's t over seeds."""
    lines = [
        f"| optimizer | lr | trials | loss [95 %] | accuracy [95 %] | loss less {REFERENCE}'s "
        "[95 %, paired] | loss over time | device s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reference = found.get(REFERENCE, Result(REFERENCE)).losses
    for result in sorted(found.values(), key=lambda r: _sorted_by(r.losses)):
        common = sorted(result.losses.keys() & reference.keys())
        paired = [result.losses[seed] - reference[seed] for seed in common]
        own = result.optimizer == REFERENCE
        lines.append(
            f"| {result.optimizer} | {'–' if result.lr is None else f'{result.lr:.2g}'} "
            f"| {result.trials} | {interval(list(result.losses.values()))} "
            f"| {interval(list(result.accuracies.values()))} "
            f"| {'' if own else interval(paired, sign=True)} "
            f"| {sparkline(result)} | {result.device_seconds:.0f} |"
        )
    return lines


def interval(values: Sequence[float], *, sign: bool = False) -> str:
    """A mean with the half width of its 95 % interval; a dash without values."""
    if not values:
        return "–"
    form = "+.4f" if sign else ".4f"
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:{form}} (one seed)"
    width = stats.t.ppf(0.975, len(values) - 1) * float(stats.sem(values))
    return f"{mean:{form}} ± {width:.4f}"


def sparkline(result: Result) -> str:
    """The mean loss over seeds at each evaluation, between its own ends."""
    curves = [[loss for _, loss, _ in curve] for curve in result.curves.values()]
    if not curves:
        return ""
    mean = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
    spread = float(np.ptp(mean)) or 1.0
    steps = ((mean - mean.min()) / spread * (len(BARS) - 1)).round().astype(int)
    return f"`{''.join(BARS[i] for i in steps)}` {mean[0]:.3f} to {mean[-1]:.3f}"


def write_curves(file: Path, name: str, found: Mapping[str, Result]) -> None:
    """Appends every point of every curve."""
    fresh = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        if fresh:
            writer.writerow(["task", "optimizer", "lr", "seed", "samples", "loss", "accuracy"])
        for result in found.values():
            for seed, curve in result.curves.items():
                writer.writerows([name, result.optimizer, result.lr, seed, *p] for p in curve)


def _sorted_by(losses: Mapping[int, float]) -> float:
    return float(np.mean(list(losses.values()))) if losses else math.inf


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def main() -> None:
    """Prints a Markdown fragment: how it was run, then a table a task, as each is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    known = optimizers.registry.names()
    parser.add_argument(
        "--tasks", nargs="+", choices=["digits", "fashion-mnist", "tiny-shakespeare"]
    )
    parser.add_argument("--optimizers", nargs="+", choices=known, default=known, metavar="NAME")
    parser.add_argument("--trials", type=int, default=8, help="of each optimizer and task")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=20.0, help="for everything")
    parser.add_argument("--pictures", type=int, default=3000, help="of Fashion-MNIST")
    parser.add_argument("--text-bytes", type=int, default=100_000, help="of tiny Shakespeare")
    parser.add_argument("--data", default="../shared/data", help="folder of the two data sets")
    parser.add_argument("--csv", type=Path, help="keep all curves in this file")
    parser.add_argument("--processes", type=int, help="workers; one a core by default")
    parser.add_argument("--quick", action="store_true", help="tiny data, 3 trials, 2 seeds")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    trials, seeds = (3, 2) if arguments.quick else (arguments.trials, arguments.seeds)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        chosen = problems(arguments, folder)
        zoo = Zoo(folder, arguments.processes)
        print(
            f"{len(arguments.optimizers)} optimizers, {trials} trials each to find the learning "
            f"rate, {seeds} seeds of the best. {datetime.now(UTC):%Y-%m-%d}, "
            f"{os.cpu_count()} x {platform.processor() or platform.machine()}, "
            f"torch {torch.__version__}.\n"
        )
        try:
            left = sum(problem.share for problem in chosen.values())
            for name, problem in chosen.items():
                # What a task does not use is there for the next.
                rest = max(0.0, 60 * arguments.minutes - (time.monotonic() - started))
                seconds = rest * problem.share / left
                left -= problem.share
                begun = time.monotonic()
                found = zoo.tune(problem, arguments.optimizers, trials, TUNING_SHARE * seconds)
                zoo.repeat(problem, found, seeds, seconds - (time.monotonic() - begun))
                print(f"### {name}\n")
                print(
                    f"`{dict(problem.task)}`, {dict(problem.constants)}, {problem.epochs} epochs; "
                    f"{time.monotonic() - begun:.0f} s.\n"
                )
                print("\n".join(table(found)) + "\n", flush=True)
                if arguments.csv is not None:
                    write_curves(arguments.csv, name, found)
        finally:
            zoo.context.close()
    sys.stderr.write(f"{time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main()
