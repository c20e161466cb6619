"""``tuner advise``: how to move a configuration, or a study's best, to another batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tuner.cli.options import Json, Token, Url
from tuner.cli.output import print_json, say, shown
from tuner.errors import InvalidInput

if TYPE_CHECKING:
    from tuner.client import Client
    from tuner.service import TrialView

app = typer.Typer(help="Move a configuration to another batch size.", no_args_is_help=True)


Fixed = Annotated[
    Literal["epochs", "steps"], typer.Option(help="What both runs have the same number of.")
]
Rule = Annotated[
    str | None, typer.Option(help="A rule to insist on; by default the best evidence decides.")
]
Batch = Annotated[int, typer.Option(help="The new batch size.")]


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
