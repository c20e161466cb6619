"""``tuner task``: what tasks there are, and whether one of your own is fit to be tuned."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli.options import Json
from tuner.cli.output import print_json, print_table, say
from tuner.errors import TunerError

if TYPE_CHECKING:
    from tuner.tasks import Task
    from tuner.training import TrainingData

app = typer.Typer(help="List tasks; check one of your own.", no_args_is_help=True)

SLOTS = (1, 4, 16)
TIMED_SAMPLES = 1024
ROUNDS = 5
"""The best of them counts: in the first ones the engine is still trying its forms."""


@dataclass
class Examination:
    """What a check found."""

    task: str
    samples: int
    parameters: int
    slot_bytes: int
    engine: str
    samples_per_second: dict[int, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)


@app.command("list")
def list_(json: Json = False) -> None:
    """Lists the tasks that this installation can train."""
    from tuner import tasks

    rows = [(name, task.summary, task.objective[0]) for name, task in tasks.registry.items()]
    if json:
        print_json([dict(zip(("name", "summary", "metric"), row, strict=True)) for row in rows])
    else:
        print_table(("name", "what", "metric"), rows)


@app.command()
def check(
    path: Annotated[str, typer.Argument(help="MODULE:CLASS, or a task's name.")],
    param: Annotated[
        list[str] | None, typer.Option(help="An argument of the task: NAME=VALUE.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="For the memory of a slot.")] = "adamw",
    json: Json = False,
) -> None:
    """Trains a task a little: which engine it gets and why, speed, memory, and what is wrong."""
    from tuner import tasks
    from tuner.cli.options import settings_of

    name = load(path) if ":" in path else path
    task = tasks.get(name, "task")(**settings_of(param or []))
    found = examine(name, task, optimizer)
    if json:
        print_json(found)
    else:
        _tell(found)
    if found.problems:
        raise TunerError(f"task {name} has {len(found.problems)} problem(s)")


def load(path: str) -> str:
    """Registers a task given as MODULE:CLASS; modules of the working directory are found too."""
    from tuner.worker.loop import load_task

    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return load_task(path)


def examine(name: str, task: Task, optimizer: str) -> Examination:
    """Checks one task: its data, its loss, its metrics, its engine, its speed."""
    import torch

    from tuner.advisor.memory import bytes_per_parameter
    from tuner.training import Population, TrainingData

    config = {"optimizer": optimizer, "lr": 1e-3, "batch_size": 32}
    data = TrainingData(task, torch.device("cpu"), torch.float32)
    model = task.model(config)
    parameters = sum(p.numel() for p in model.parameters())
    population = Population(task, config, 1, data=data)
    verdict = population.engine.verdict
    engine = "fused" if verdict.fused else "looped"
    found = Examination(
        task=name,
        samples=len(data.train),
        parameters=parameters,
        slot_bytes=round(parameters * bytes_per_parameter(optimizer).total),
        engine=engine + (f": {verdict.reason}" if verdict.reason else ""),
    )
    found.problems += list(_wrong(task, config, data))
    if not task.ghost_batch_norm and any(
        isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in model.modules()
    ):
        found.cautions.append(
            "BatchNorm: trials of different batch sizes cannot share a population, since its "
            "statistics are those of the micro-batch; set ghost_batch_norm to accept that"
        )
    if not found.problems:
        for slots in SLOTS:
            found.samples_per_second[slots] = _speed(task, config, data, slots)
    return found


def _wrong(task: Task, config: dict[str, Any], data: TrainingData) -> Iterator[str]:
    """What would make trials fail or lie, in sentences."""
    import torch

    from tuner.training.source import open_source

    index = torch.arange(min(8, len(data.train)))
    x, y = data.train.take(index)
    again, _ = open_source(task.data().train, torch.device("cpu"), torch.float32).take(index)
    if not torch.equal(x, again):
        yield "data() gives other samples each time: fix its seed, or no trial can be repeated"
    torch.manual_seed(0)
    model = task.model(config).eval()
    with torch.no_grad():
        output = model(x)
        loss = task.loss(output, y, {**config, "label_smoothing": torch.tensor(0.0)})
        measured = task.metrics(output, y)
    if loss.shape != (len(index),):
        yield (
            f"loss() gives the shape {list(loss.shape)} for {len(index)} samples: return one "
            "number a sample (reduction='none'), which the engine averages itself"
        )
    elif not bool(torch.isfinite(loss).all()):
        yield "loss() is not finite on the first samples of a fresh model"
    if set(measured) != set(task.extra_metrics):
        yield (
            f"metrics() gives {sorted(measured)} and extra_metrics names "
            f"{sorted(task.extra_metrics)}: they must be the same"
        )
    for name, values in measured.items():
        if values.shape != (len(index),):
            yield f"metric {name} has the shape {list(values.shape)}: return one number a sample"


def _speed(task: Task, config: dict[str, Any], data: TrainingData, slots: int) -> float:
    """Samples a second over all slots, once the engine has chosen its form."""
    from tuner.training import Population

    population = Population(task, config, slots, data=data, check=False)
    for slot in range(slots):
        population.load(slot, config, seed=slot, epochs=1000.0)
    best = 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        population.train(TIMED_SAMPLES)
        best = max(best, slots * TIMED_SAMPLES / (time.perf_counter() - start))
    return round(best, 1)


def _tell(found: Examination) -> None:
    say(f"{found.task}: {found.samples} training samples, {found.parameters} parameters")
    say(f"engine: {found.engine}")
    say(f"memory of a slot: {found.slot_bytes / 2**20:.3g} MiB of state, and its activations")
    if found.samples_per_second:
        print_table(
            ("slots", "samples/s in all", "gain over one"),
            [
                (slots, speed, speed / found.samples_per_second[1])
                for slots, speed in found.samples_per_second.items()
            ],
        )
    for text in found.cautions:
        say(f"caution: {text}")
    for text in found.problems:
        say(f"problem: {text}")
