"""``tuner advise``: how to move a configuration to another batch size, without a server."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from tuner.cli.options import Json
from tuner.cli.output import print_json, say
from tuner.errors import InvalidInput

app = typer.Typer(help="Move a configuration to another batch size.", no_args_is_help=True)


@app.command()
def scale(
    batch: Annotated[int, typer.Option(help="The new batch size.")],
    lr: Annotated[float, typer.Option(help="The learning rate that works.")],
    batch_size: Annotated[int, typer.Option(help="The batch size it works at.")],
    optimizer: Annotated[str, typer.Option(help="A name of the catalogue.")] = "adamw",
    rule: Annotated[str, typer.Option(help="The rule to apply.")] = "sqrt",
    fixed: Annotated[
        Literal["epochs", "steps"], typer.Option(help="What both runs have the same number of.")
    ] = "epochs",
    noise_scale: Annotated[
        float | None, typer.Option(help="Gradient noise scale in samples, where known.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Another hyperparameter: NAME=VALUE.")
    ] = None,
    json: Json = False,
) -> None:
    """Applies one rule: what moves with the batch size, why, and what to be careful of.

    For example: tuner advise scale --lr 5e-4 --batch-size 128 --batch 1024
    """
    from tuner import advisor

    config: dict[str, Any] = {"lr": lr, "batch_size": batch_size, **_settings(setting or [])}
    scaled = advisor.scale(
        config, batch, optimizer=optimizer, rule=rule, fixed=fixed, noise_scale=noise_scale
    )
    if json:
        print_json(scaled.to_dict())
    else:
        say(str(scaled))


def _settings(given: list[str]) -> dict[str, Any]:
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
