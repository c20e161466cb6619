"""``tuner advise``: how to move a configuration, or a study's best, to another batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tuner.cli import measuring
from tuner.cli.options import Json, Token, Url, settings_of
from tuner.cli.output import print_json, print_table, say
from tuner.errors import InvalidInput

app = typer.Typer(
    help="Move a configuration to another batch size; measure what that depends on.",
    no_args_is_help=True,
)
app.command("range")(measuring.range_)
app.command("measure")(measuring.measure)
app.command("memory")(measuring.memory)

Fixed = Annotated[
    Literal["epochs", "steps"], typer.Option(help="What both runs have the same number of.")
]
Rule = Annotated[
    str | None, typer.Option(help="A rule to insist on; by default the best evidence decides.")
]
Lr = Annotated[float, typer.Option(help="The learning rate that works.")]
Batch = Annotated[int, typer.Option(help="The batch size it works at.")]
To = Annotated[int, typer.Option(help="The new batch size.")]
Optimizer = Annotated[str, typer.Option(help="A name of the catalogue.")]
Studies = Annotated[list[str], typer.Argument(metavar="STUDY...", help="Ids, or names.")]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="Another hyperparameter: NAME=VALUE.")
]


@app.command()
def scale(
    lr: Lr,
    batch: Batch,
    to: To,
    optimizer: Optimizer = "adamw",
    rule: Rule = None,
    fixed: Fixed = "epochs",
    noise_scale: Annotated[
        float | None, typer.Option(help="Gradient noise scale in samples, where known.")
    ] = None,
    beta1: Annotated[float | None, typer.Option(help="Decay of the momentum.")] = None,
    beta2: Annotated[float | None, typer.Option(help="Decay of the squares.")] = None,
    eps: Annotated[float | None, typer.Option(help="Added to the root.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decoupled decay.")] = None,
    momentum: Annotated[float | None, typer.Option(help="That of SGD.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps until the full lr.")] = None,
    setting: Setting = None,
    json: Json = False,
) -> None:
    """Moves a configuration: what changes with the batch size, why, and how sure that is.

    For example: tuner advise scale --optimizer adam --lr 5e-4 --batch 128 --to 1024
    """
    from tuner import advisor

    named = {
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "warmup_steps": warmup_steps,
    }
    config: dict[str, Any] = {"lr": lr, "batch_size": batch, **settings_of(setting or [])}
    config |= {name: value for name, value in named.items() if value is not None}
    advice = advisor.advise(
        config, to, optimizer=optimizer, rule=rule, fixed=fixed, noise_scale=noise_scale
    )
    if json:
        print_json(advice.to_dict())
    else:
        say(str(advice))


@app.command()
def study(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Its id, or its name.")],
    to: To,
    trial: Annotated[
        int | None, typer.Option(help="The number of the trial to move; by default the best.")
    ] = None,
    rule: Rule = None,
    fixed: Fixed = "epochs",
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Moves a study's best configuration, by the study's own trials and noise scale."""
    from tuner.client import Client

    with Client(url, token) as client:
        advice = client.advice(client.study(study).id, to, trial=trial, rule=rule, fixed=fixed)
    if json:
        print_json(advice.to_dict())
    else:
        say(str(advice))


@app.command()
def fit(
    studies: Studies,
    optimizer: Annotated[
        str | None, typer.Option(help="That of the trials' configurations unless given.")
    ] = None,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Fits the best learning rate against the batch size, by the finished trials of studies."""
    from tuner.advisor.digits import fitted
    from tuner.client import Client

    with Client(url, token) as client:
        found = client.fit(*(client.study(name).id for name in studies), optimizer=optimizer)
    if json:
        print_json(found.to_dict())
        return
    say(str(found))
    rows = [
        [o.batch_size, o.lr and fitted(o.lr), o.log2_error, o.rates, o.why] for o in found.optima
    ]
    print_table(("batch size", "best lr", "+- octaves", "rates tried", ""), rows)
    if found.trials:
        wanted = [[int(t["batch_size"]), fitted(t["lr"])] for t in found.trials]
        print_table(("batch size", "lr"), wanted, title="trials that would tell more")


@app.command()
def critical(
    studies: Studies,
    target: Annotated[float, typer.Option(help="Of the objective: how good is good enough.")],
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Finds the critical batch size: where more samples a step stop saving steps.

    For example: tuner advise critical digits-scaling --target 0.3
    """
    from tuner.client import Client

    with Client(url, token) as client:
        found = client.critical(*(client.study(name).id for name in studies), target=target)
    if json:
        print_json(found.to_dict())
    else:
        say(str(found))


@app.command()
def plan(
    task: measuring.TaskName,
    lr: Lr,
    batch: Batch,
    trials: Annotated[int, typer.Option(help="The most that it may take.")],
    epochs: Annotated[int, typer.Option(help="Of each trial.")],
    to: Annotated[int | None, typer.Option(help="The batch size to predict.")] = None,
    optimizer: Optimizer = "adamw",
    metric: Annotated[str, typer.Option(help="What to optimise.")] = "val_loss",
    direction: Annotated[Literal["minimize", "maximize"], typer.Option()] = "minimize",
    name: Annotated[str, typer.Option(help="Of the study.")] = "scaling",
    setting: Setting = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Writes the study file here.")
    ] = None,
    json: Json = False,
) -> None:
    """Plans the study that tells how the best learning rate goes with the batch size.

    For example: tuner advise plan --task digits --lr 1e-3 --batch 32 --trials 60 --epochs 5
    """
    import yaml

    from tuner.advisor.plan import plan as planned
    from tuner.cli.task import load

    known = load(task) if ":" in task else task
    found = planned(
        {"lr": lr, "batch_size": batch, **settings_of(setting or [])},
        task={"name": known},
        objective={"metric": metric, "direction": direction},
        trials=trials,
        epochs=epochs,
        optimizer=optimizer,
        target=to,
        name=name,
    )
    file = yaml.safe_dump(found.study, sort_keys=False)
    if output is not None:
        try:
            output.write_text(file, encoding="utf-8")
        except OSError as error:
            raise InvalidInput("output", f"{output} cannot be written: {error}") from error
    if json:
        print_json(found.to_dict())
    else:
        say(str(found) + ("" if output is not None else f"\n\n{file}"))
