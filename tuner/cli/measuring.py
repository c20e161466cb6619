"""Commands that measure to advise: ``tuner advise range``, ``measure`` and ``memory``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tuner.cli.options import Json, number, settings_of
from tuner.cli.output import print_json, say
from tuner.errors import InvalidInput, TunerError

if TYPE_CHECKING:
    import torch

    from tuner.advisor.memory import Footprint
    from tuner.tasks import Task

TaskName = Annotated[str, typer.Option("--task", help="A task's name, or MODULE:CLASS.")]
Param = Annotated[
    list[str] | None, typer.Option("--param", help="An argument of the task: NAME=VALUE.")
]
Config = Annotated[
    Path | None, typer.Option(help="A YAML file with the configuration: lr, batch_size, ...")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


def range_(
    task: TaskName,
    optimizer: Annotated[
        str | None, typer.Option(help="A name of the catalogue; adamw by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=64, help="Runs, trained side by side.")] = 3,
    config: Config = None,
    param: Param = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Finds the learning rates worth searching: one short run in which the rate rises steadily.

    For example: tuner advise range --task digits --optimizer sgd
    """
    from tuner.training.range_test import find_range

    chosen = _config(config)
    if optimizer is not None:
        chosen["optimizer"] = optimizer
    built, where = _opened(task, param, device, chosen)
    with _training(task):
        found = find_range(built, chosen, seeds=seeds, device=where)
    if json:
        print_json({**found.to_dict(), "space": {"lr": found.to_space()}})
    else:
        say(str(found))


def measure(
    task: TaskName,
    config: Config = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps to train.")] = 256,
    param: Param = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measures the gradient noise scale of a configuration, by training it a short while.

    For example: tuner advise measure --task digits --config best.yaml
    """
    from tuner.training.range_test import measure_noise

    chosen = _config(config)
    built, where = _opened(task, param, device, chosen)
    with _training(task):
        found = measure_noise(built, chosen, steps=steps, device=where)
    if json:
        print_json(found.to_dict())
    else:
        say(str(found))


def memory(
    parameters: Annotated[
        int | None, typer.Option(help="Parameters of one model; counted where a task is given.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="A name of the catalogue; adamw by default.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "autocast", "mixed", "bf16"], typer.Option(help="Of the training.")
    ] = "fp32",
    batch: Annotated[int, typer.Option(help="Samples held at once: the micro-batch.")] = 1,
    peak: Annotated[
        list[str] | None,
        typer.Option(help="A measured peak, BATCH=BYTES; give it at two batch sizes."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Measures this task instead: a name, or MODULE:CLASS.")
    ] = None,
    config: Config = None,
    param: Param = None,
    device: Device = "auto",
    capacity: Annotated[
        float | None, typer.Option(help="Bytes of the device; what is free where a task is given.")
    ] = None,
    context: Annotated[
        float, typer.Option(help="Bytes that a process takes before any tensor.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Says what a trial takes, and how many of them a device holds.

    For example: tuner advise memory --task digits --batch 64; or, from peaks of your own:
    tuner advise memory --parameters 25000000 --capacity 80e9 --peak 8=1.8e9 --peak 24=3.4e9
    """
    from tuner.advisor import memory as room
    from tuner.spec.names import DEFAULT_OPTIMIZER

    chosen = _config(config)
    rule = optimizer or str(chosen.get("optimizer", DEFAULT_OPTIMIZER))
    peaks = _peaks(peak or [])
    if task is not None:
        built, where = _opened(task, param, device, {**chosen, "optimizer": rule})
        with _training(task):
            counted, measured, free = _slot(built, {**chosen, "optimizer": rule}, where)
        parameters, capacity = parameters or counted, capacity or free
        peaks = peaks or measured
    if parameters is None:
        raise InvalidInput("parameters", "is missing: count them, or name a task")
    found = room.memory(
        rule,
        parameters,
        precision=precision,
        batch_size=batch,
        peaks=peaks,
        capacity=capacity,
        context=context,
    )
    if json:
        print_json(found.to_dict())
    else:
        say(str(found))


def _peaks(given: list[str]) -> Footprint | None:
    """Measured peaks as a line in the batch size."""
    from tuner.advisor.memory import measured

    sizes, bytes_ = [], []
    for text in given:
        size, _, held = text.partition("=")
        try:
            sizes.append(int(size))
            bytes_.append(float(held))
        except ValueError as error:
            raise InvalidInput("peak", f"expected BATCH=BYTES, got {text!r}") from error
    return measured(sizes, bytes_) if given else None


def _slot(
    task: Task, config: Mapping[str, Any], device: torch.device
) -> tuple[int, Footprint, float]:
    """Parameters of a model, the peaks of one slot that trains it, and the bytes that are free."""
    import torch

    from tuner.training import memory
    from tuner.training.architecture import build
    from tuner.worker import device as devices

    model = build(task, config, 0, torch.float32)
    free = devices.free_memory(device)
    slot = memory.measure(task, config, device=device)
    return sum(p.numel() for p in model.parameters()), slot.peaks, float(free)


@contextmanager
def _training(task: str) -> Iterator[None]:
    """Says in one line what a task's own code raises.

    Raises:
        TunerError: It raised something.
    """
    from tuner.training.program import first_line

    try:
        yield
    except TunerError:
        raise
    except Exception as error:
        raise TunerError(
            f"{task} cannot be trained: {type(error).__name__}: {first_line(error)}"
        ) from error


def _config(file: Path | None) -> dict[str, Any]:
    """A configuration from a YAML or JSON file; empty without one."""
    from tuner.spec.files import read_yaml

    if file is None:
        return {}
    raw = read_yaml(file, "config")
    if not isinstance(raw, Mapping):
        raise InvalidInput("config", f"{file} is no mapping of names to values")
    return {str(name): number(value) for name, value in raw.items()}


def _opened(
    name: str, params: list[str] | None, device: str, config: Mapping[str, Any]
) -> tuple[Task, torch.device]:
    """The task, and the device; refuses what the task, the optimizer or the schedule cannot take.

    Raises:
        InvalidInput: Names the field, such as ``config.lr``.
    """
    from tuner.cli.task import load
    from tuner.spaces import Space
    from tuner.spec.built import build, facts, freeze
    from tuner.spec.names import DEFAULT_OPTIMIZER, check_space
    from tuner.worker import device as devices

    known = load(name) if ":" in name else name
    given = settings_of(params or [])
    built = build(known, given)
    size = facts(known, freeze(given)).train_size
    epochs = config.get("epochs", 1.0)
    try:
        space = Space.parse({"optimizer": DEFAULT_OPTIMIZER, **config})
        length = epochs if isinstance(epochs, int | float) else 1.0
        check_space(space, built.settings, built.metric_names(), size, length)
    except InvalidInput as error:
        field = error.field.replace("space", "config", 1)
        raise InvalidInput(field, error.message.removeprefix(f"{error.field}: ")) from error
    chosen = devices.choose(device)
    devices.prepare(chosen)
    return built, chosen
