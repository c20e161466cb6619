"""The advisor's prediction of the best learning rate at a batch size left out, beside the rules.

For each setting: the study of ``examples/scaling.yaml`` with a few seeds; then, for each of its
batch sizes, a fit to all the others, which foretells the best rate there; then a second study, with
seeds that no fit has seen, which trains at that rate, at what the rules say, and on a fine grid
whose best rate is the truth. Regret is the final validation loss above that of the grid's best
rate, paired by seed. Both studies run on the service itself.

    python benchmarks/scaling.py                      # digits, AdamW and SGD with momentum
    python benchmarks/scaling.py --settings fashion-adamw --data FOLDER --fit-seeds 2 --seeds 5
    python benchmarks/scaling.py --quick --settings digits-adamw

A rule starts from the best rate at the nearest other batch size (*near*), or from that at the
farthest one (*far*). ``advised`` is what ``tuner advise scale`` says without evidence, betas, eps
and decay included; ``noise`` the same with the gradient noise scale that the trials measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy import stats

from tuner import advisor, optimizers, service
from tuner.advisor import Fit, Observation
from tuner.advisor.curves import Parabola, judge, settle
from tuner.service import Context
from tuner.spec import StudySpec
from tuner.spec.built import build
from tuner.storage import migrate
from tuner.training.range_test import find_range
from tuner.worker.local import run_study

EXAMPLE = Path(__file__).parent.parent / "examples" / "scaling.yaml"
GUESSING = math.log(10)
"""The loss of a training that diverged: that of guessing among ten classes."""
GRID = tuple(step / 2 for step in range(-6, 7))
"""The follow-up's grid, in octaves around the best of the trials left out."""
RULES = ("keep", "sqrt", "linear")

Config = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What is trained: the example's study, changed.

    Args:
        title: For people.
        changes: Of the study file's fields.
        space: Of its space.
        shift: Octaves by which the grid of rates is moved.
    """

    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)
    shift: float = 0.0

    def study(self, name: str, seed: int) -> dict[str, Any]:
        """The study file."""
        raw: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
        raw |= {"name": name, "seed": seed, **self.changes}
        rates = [float(f"{lr * 2.0**self.shift:.4g}") for lr in raw["space"]["lr"]["choices"]]
        raw["space"] |= {"lr": {"type": "categorical", "choices": rates}, **self.space}
        return raw


@dataclass
class HeldOut:
    """One batch size left out: what is tried there, and what came of it."""

    batch: int
    fit: Fit
    configs: dict[str, Config]
    grid: list[Config]
    losses: dict[str, list[float]] = field(default_factory=dict)
    """By candidate, one a seed."""
    grid_losses: list[list[float]] = field(default_factory=list)
    """``[rates][seeds]``."""

    @property
    def best(self) -> list[float]:
        """The losses, one a seed, at the grid's best rate: that of the lowest mean."""
        return min(self.grid_losses, key=statistics.fmean)

    def regret(self, label: str) -> list[float]:
        """Loss above the best rate's, one a seed."""
        return [x - y for x, y in zip(self.losses[label], self.best, strict=True)]

    def truth(self) -> float | None:
        """The best rate by a parabola through the grid; None where it lies at an end."""
        seen = [
            Observation(c["lr"], self.batch, loss, seed)
            for c, losses in zip(self.grid, self.grid_losses, strict=True)
            for seed, loss in enumerate(losses)
        ]
        curve = settle(seen)
        return judge(curve, 0.0).lr if isinstance(curve, Parabola) else None


class Lab:
    """Runs studies on one database.

    Args:
        folder: For the database and checkpoints.
        processes: Workers; one a core by default.
    """

    def __init__(self, folder: Path, processes: int | None) -> None:
        url = f"sqlite:///{folder}/scaling.sqlite"
        migrate.prepare(url)
        self.context = Context.open(url)
        self.folder = folder
        self.processes = processes

    def run(self, study: int) -> None:
        """Trains a study to its end."""
        run_study(self.context, study, home=self.folder, device="cpu", processes=self.processes)

    def grids(self, setting: Setting, key: str, seeds: Sequence[int]) -> list[int]:
        """The study to fit, once a seed."""
        found = []
        for seed in seeds:
            raw = setting.study(f"{key}-{seed}", seed)
            found.append(service.submit(self.context, StudySpec.parse(raw)).id)
            self.run(found[-1])
        return found

    def follow(
        self, setting: Setting, key: str, held: Sequence[HeldOut], seeds: Sequence[int]
    ) -> None:
        """The second study, once a seed: every candidate and the fine grid of every batch size."""
        configs = {_key(c): c for one in held for c in (*one.configs.values(), *one.grid)}
        for one in held:
            one.grid_losses = [[] for _ in one.grid]
        for seed in seeds:
            raw = setting.study(f"{key}-follow-{seed}", seed)
            raw |= {
                "space": spanned(list(configs.values())),
                "sampler": {"name": "manual"},
                "budget": {**raw["budget"], "trials": len(configs)},
            }
            study = service.submit(self.context, StudySpec.parse(raw)).id
            made = service.enqueue(self.context, study, list(configs.values()))
            self.run(study)
            ended = {t.id: t for t in service.list_trials(self.context, study, limit=1000).items}
            losses = {
                name: _loss(ended[trial.id].value)
                for name, trial in zip(configs, made, strict=True)
            }
            for one in held:
                for label, config in one.configs.items():
                    one.losses.setdefault(label, []).append(losses[_key(config)])
                for row, config in zip(one.grid_losses, one.grid, strict=True):
                    row.append(losses[_key(config)])

    def range_test(self, setting: Setting, held: Sequence[HeldOut]) -> str:
        """Whether the range that ``space: auto`` would search holds each batch size's best rate."""
        spec = StudySpec.parse(setting.study("range", 0))
        if spec.task is None:
            raise ValueError("the example has a task")
        sizes = [one.batch for one in held]
        middle = min(sizes, key=lambda size: abs(math.log(size**2 / (sizes[0] * sizes[-1]))))
        config = {**held[0].grid[0], "batch_size": middle}
        found = find_range(build(spec.task.name, spec.task.params), config)
        found = found.across(middle, sizes[0], sizes[-1], str(config["optimizer"]))
        best = [one.truth() for one in held]
        inside = sum(lr is not None and found.low <= lr <= found.high for lr in best)
        return (
            f"Range test at batch size {middle}: {found.low:.2g} to {found.high:.2g}, which holds "
            f"the best rate of {inside} of {len(held)} batch sizes."
        )


def _key(config: Config) -> str:
    return json.dumps(config, sort_keys=True)


def _loss(value: float | None) -> float:
    return GUESSING if value is None or not math.isfinite(value) else min(value, GUESSING)


def spanned(configs: Sequence[Config]) -> dict[str, Any]:
    """A space that holds all of them: constants where they agree, ranges where not."""
    space: dict[str, Any] = {}
    for name in configs[0]:
        values = [config[name] for config in configs]
        if all(value == values[0] for value in values):
            space[name] = values[0]
        elif name == "batch_size":
            space[name] = {"type": "categorical", "choices": sorted(set(values))}
        else:
            low, high = min(values), max(values)
            space[name] = {"type": "float", "low": low, "high": high, "log": low > 0}
    return space


def leave_out(
    lab: Lab, studies: Sequence[int], batch: int, optimizer: str, base: Config
) -> HeldOut:
    """The fit without one batch size, and what it and the rules would try there."""
    everything = service.advice.observations(lab.context, studies)
    seen = [o for o in everything if o.batch_size != batch]
    fit = advisor.fit(seen, optimizer=optimizer)
    known = {o.batch_size: o.lr for o in fit.interior if o.lr is not None}
    by_distance = sorted(known, key=lambda size: abs(math.log(size / batch)))
    configs: dict[str, Config] = {}
    if fit.identified:
        configs["fit"] = {**base, "lr": fit.predict(batch).lr.value, "batch_size": batch}
    places = zip(("near", "far"), by_distance[:1] + by_distance[-1:], strict=False)
    for place, start in places:
        old = {**base, "lr": known[start], "batch_size": start}
        for rule in RULES:
            power = {"keep": 0.0, "sqrt": 0.5, "linear": 1.0}[rule]
            rate = known[start] * (batch / start) ** power
            configs[f"{rule}, {place}"] = {**base, "lr": rate, "batch_size": batch}
        noise = service.noise_beside(lab.context, studies, old)
        for label, scale in (("advised", None), ("noise", noise)):
            said = advisor.advise(old, batch, optimizer=optimizer, noise_scale=scale)
            configs[f"{label}, {place}"] = {**base, **said.config}
    left_out = [o for o in everything if o.batch_size == batch and not o.failed]
    by_rate: dict[float, list[float]] = {}
    for o in left_out:
        by_rate.setdefault(o.lr, []).append(o.loss)
    middle = min(by_rate, key=lambda rate: statistics.fmean(by_rate[rate]))
    grid = [{**base, "lr": middle * 2.0**step, "batch_size": batch} for step in GRID]
    return HeldOut(batch, fit, configs, grid)


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of Student's 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values)
    return f"{mean:.3f} ± {half / math.sqrt(len(values)):.3f}"


def table(held: Sequence[HeldOut]) -> Iterable[str]:
    """Markdown: what was foretold and found, then the regret of every candidate."""
    yield row("batch size left out", [*(str(one.batch) for one in held), "mean"])
    yield "|-|" + "-|" * (len(held) + 1)
    told = [one.fit.predict(one.batch).lr if one.fit.identified else None for one in held]
    found = [one.truth() for one in held]
    pairs = zip(told, found, strict=True)
    inside = sum(t is not None and x is not None and x in t for t, x in pairs)
    foretold = [f"{t.value:.2g} ({t.low:.2g}–{t.high:.2g})" if t else "not told" for t in told]
    yield row("foretold (95 %)", [*foretold, ""])
    best = ["at an end" if x is None else f"{x:.2g}" for x in found]
    yield row("found", [*best, f"{inside} of {len(held)} inside"])
    for label in dict.fromkeys(label for one in held for label in one.configs):
        known = [one.regret(label) for one in held if label in one.losses]
        cells = [interval(one.regret(label)) if label in one.losses else "–" for one in held]
        mean = "–"
        if len(known) == len(held):
            mean = interval([statistics.fmean(of) for of in zip(*known, strict=True)])
        yield row(label, [*cells, mean])


def row(label: str, cells: Iterable[str]) -> str:
    """One line of a Markdown table."""
    return f"| {label} | " + " | ".join(cells) + " |"


def settings(arguments: argparse.Namespace) -> dict[str, Setting]:
    """All settings by name; those with pictures need ``--data``."""
    epochs = {"budget": {"epochs": 2}, "eval_every": 2} if arguments.quick else {"eval_every": 10}
    momentum = {"optimizer": "momentum", "momentum": 0.9, "weight_decay": 1e-4}
    found = {
        "digits-adamw": Setting("digits, AdamW", epochs),
        "digits-momentum": Setting("digits, SGD with momentum 0.9", epochs, momentum, shift=3.5),
    }
    if arguments.data:
        params = {"path": arguments.data, "limit": 600 if arguments.quick else arguments.pictures}
        task = {"task": {"name": "images", "params": params}}
        short = {"budget": {"epochs": 3}, "eval_every": 3}
        small = {"model.width": 4, "model.hidden": 32}
        found["fashion-adamw"] = Setting(
            f"Fashion-MNIST ({params['limit']} pictures), AdamW", {**task, **short}, small
        )
    return found


def main() -> None:
    """Prints a Markdown table for each setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", nargs="*", help="by name; all by default")
    parser.add_argument("--fit-seeds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=10, help="of the follow-up")
    parser.add_argument("--data", help="a folder with Fashion-MNIST's IDX files")
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--processes", type=int, help="workers; one a core by default")
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, torch {torch.__version__}")
    for key, setting in settings(arguments).items():
        if arguments.settings and key not in arguments.settings:
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            held, notes = measured(Path(folder), key, setting, arguments)
        print(f"\n**{setting.title}**, {time.perf_counter() - start:.0f} s\n")
        print("\n".join([*table(held), "", *notes]), flush=True)


def measured(
    folder: Path, key: str, setting: Setting, arguments: argparse.Namespace
) -> tuple[list[HeldOut], list[str]]:
    """Both studies of a setting, and in words the fit to everything and the range test."""
    lab = Lab(folder, arguments.processes)
    try:
        raw = setting.study("x", 0)
        base = {n: v for n, v in raw["space"].items() if not isinstance(v, dict)}
        sizes = raw["space"]["batch_size"]["choices"]
        optimizer = base["optimizer"]
        studies = lab.grids(setting, key, range(1, arguments.fit_seeds + 1))
        held = [leave_out(lab, studies, size, optimizer, base) for size in sizes]
        complete(held)
        lab.follow(setting, key, held, range(101, 101 + arguments.seeds))
        everything = service.fit_studies(lab.context, studies)
        return held, [f"{everything}.", lab.range_test(setting, held)]
    finally:
        lab.context.close()


def complete(held: Sequence[HeldOut]) -> None:
    """Gives every configuration the settings that some rule moves, at the optimizer's defaults."""
    everything = [c for one in held for c in (*one.configs.values(), *one.grid)]
    names = {name for config in everything for name in config}
    rule = optimizers.get(str(everything[0]["optimizer"]))
    for config in everything:
        for name in names - set(config):
            config[name] = rule.hyper[name].default


if __name__ == "__main__":
    main()
