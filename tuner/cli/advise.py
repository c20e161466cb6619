"""``tuner advise``: how to move a configuration, or a study's best, to another batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tuner.cli.options import Json, Token, Url
from tuner.cli.output import print_json, say, shown
from tuner.errors import InvalidInput

if TYPE_CHECKING:
    import torch

    from tuner.client import Client
    from tuner.service import TrialView
    from tuner.tasks import Task

app = typer.Typer(
    help="Move a configuration to another batch size; measure what that depends on.",
    no_args_is_help=True,
)


Fixed = Annotated[
    Literal["epochs", "steps"], typer.Option(help="What both runs have the same number of.")
]
Rule = Annotated[
    str | None, typer.Option(help="A rule to insist on; by default the best evidence decides.")
]
Batch = Annotated[int, typer.Option(help="The new batch size.")]
TaskName = Annotated[str, typer.Option("--task", help="A task's name, or MODULE:CLASS.")]
Param = Annotated[
    list[str] | None, typer.Option("--param", help="An argument of the task: NAME=VALUE.")
]
Config = Annotated[
    Path | None, typer.Option(help="A YAML file with the configuration: lr, batch_size, ...")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


@app.command()
def scale(
    batch: Batch,
    lr: Annotated[float, typer.Option(help="The learning rate that works.")],
    batch_size: Annotated[int, typer.Option(help="The batch size it works at.")],
    optimizer: Annotated[str, typer.Option(help="A name of the catalogue.")] = "adamw",
    rule: Rule = None,
    fixed: Fixed = "epochs",
    noise_scale: Annotated[
        float | None, typer.Option(help="Gradient noise scale in samples, where known.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Another hyperparameter: NAME=VALUE.")
    ] = None,
    json: Json = False,
) -> None:
    """Moves a configuration: what changes with the batch size, why, and how sure that is.

    For example: tuner advise scale --lr 5e-4 --batch-size 128 --batch 1024
    """
    from tuner import advisor

    config: dict[str, Any] = {"lr": lr, "batch_size": batch_size, **settings_of(setting or [])}
    advice = advisor.advise(
        config, batch, optimizer=optimizer, rule=rule, fixed=fixed, noise_scale=noise_scale
    )
    if json:
        print_json(advice.to_dict())
    else:
        say(str(advice))


@app.command()
def study(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Its id, or its name.")],
    batch: Batch,
    rule: Rule = None,
    fixed: Fixed = "epochs",
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Moves a study's best configuration, with the noise scale that its trial measured."""
    from tuner.client import Client

    with Client(url, token) as client:
        best = client.best(client.study(study).id)
        if not best:
            raise InvalidInput("study", f"{study} has no finished trial yet")
        advice = moved(client, best[0], batch, rule=rule, fixed=fixed)
    if json:
        print_json(advice)
    else:
        tell(advice)


@app.command("range")
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
    found = find_range(built, chosen, seeds=seeds, device=where)
    if json:
        print_json({**found.to_dict(), "space": {"lr": found.to_space()}})
    else:
        say(str(found))


@app.command()
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
    found = measure_noise(built, chosen, steps=steps, device=where)
    if json:
        print_json(found.to_dict())
    else:
        say(str(found))


def _config(file: Path | None) -> dict[str, Any]:
    """A configuration from a YAML or JSON file; empty without one."""
    import yaml

    if file is None:
        return {}
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("config", f"{file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InvalidInput("config", f"{file} is not YAML: {error}") from error
    if not isinstance(raw, Mapping):
        raise InvalidInput("config", f"{file} is no mapping of names to values")
    return {str(name): _number(value) for name, value in raw.items()}


def _opened(
    name: str, params: list[str] | None, device: str, config: Mapping[str, Any]
) -> tuple[Task, torch.device]:
    """The task, and the device; refuses what the task, the optimizer or the schedule cannot take.

    Raises:
        InvalidInput: Names the field, such as ``config.lr``.
    """
    from tuner.cli.task import load
    from tuner.spaces import Space
    from tuner.spec.check import build, freeze, train_size
    from tuner.spec.names import DEFAULT_OPTIMIZER, check_space
    from tuner.worker import device as devices

    known = load(name) if ":" in name else name
    given = settings_of(params or [])
    built = build(known, given)
    size = train_size(known, freeze(given))
    epochs = config.get("epochs", 1.0)
    try:
        space = Space.parse({"optimizer": DEFAULT_OPTIMIZER, **config})
        check_space(space, built, size, epochs if isinstance(epochs, int | float) else 1.0)
    except InvalidInput as error:
        field = error.field.replace("space", "config", 1)
        raise InvalidInput(field, error.message.removeprefix(f"{error.field}: ")) from error
    return built, devices.choose(device)


def moved(
    client: Client, trial: TrialView, batch: int, *, rule: str | None = None, fixed: str = "epochs"
) -> dict[str, Any]:
    """The server's advice on moving a trial's configuration to another batch size."""
    noise = trial.last_metrics.get("noise_scale")
    known = noise is not None and math.isfinite(noise) and noise > 0
    options = {"rule": rule, "fixed": fixed, "noise_scale": noise if known else None}
    return client.scale(trial.config, batch, **options)


def tell(advice: Mapping[str, Any]) -> None:
    """Advice for a person: the lr, how sure it is, why, and what moves with it."""
    low, high = advice["range"]["low"], advice["range"]["high"]
    say(
        f"batch size {advice['old']['batch_size']} -> {advice['config']['batch_size']}: "
        f"lr {shown(advice['config']['lr'])} (range {shown(low)} to {shown(high)}), "
        f"by {advice['rule']}; confidence {advice['confidence']}: {advice['confidence_why']}"
    )
    say(f"  {advice['why']}")
    for name, text in advice["changes"].items():
        if name != "lr":
            say(f"  {text}")
    for text in advice["cautions"]:
        say(f"  caution: {text}")


def settings_of(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as a mapping, values read as YAML.

    Raises:
        InvalidInput: One has no name or no value.
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput("set", f"expected NAME=VALUE, got {pair!r}")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidInput(f"set.{name}", f"{value!r} is not a value") from error
        found[name] = _number(parsed)
    return found


def _number(value: object) -> object:
    # YAML reads 1e-8, which has no dot, as a string.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
