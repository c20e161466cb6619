"""``tuner task``: what tasks there are, and whether one of your own is fit to be tuned."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.options import Json
from tuner.cli.output import print_json, print_table, say
from tuner.errors import TunerError

if TYPE_CHECKING:
    from tuner.cli.examination import Examination

app = typer.Typer(help="List tasks; check one of your own.", no_args_is_help=True)


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
    from tuner.cli.examination import examine
    from tuner.cli.options import settings_of
    from tuner.spec.built import build

    name = load(path) if ":" in path else path
    found = examine(name, build(name, settings_of(param or [])), optimizer)
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


def _tell(found: Examination) -> None:
    say(f"{found.task}: {found.samples} training samples, {found.parameters} parameters")
    if found.engine:
        say(f"engine: {found.engine}")
        say(
            f"memory of a slot: {found.slot_bytes / 2**20:.3g} MiB, and "
            f"{found.sample_bytes / 2**10:.3g} KiB for each sample of a micro-batch"
        )
    if found.samples_per_second:
        print_table(
            ("slots", "samples/s in all", "gain over one", "trained"),
            [
                (slots, speed, speed / found.samples_per_second[1], found.chosen[slots])
                for slots, speed in found.samples_per_second.items()
            ],
        )
    for text in found.cautions:
        say(f"caution: {text}")
    for text in found.problems:
        say(f"problem: {text}")
