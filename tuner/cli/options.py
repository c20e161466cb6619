"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.errors import InvalidInput

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Url = Annotated[
    str | None,
    typer.Option(help="The server; by default TUNER_URL, or http://127.0.0.1:8420."),
]
Token = Annotated[
    str | None,
    typer.Option(help="The token to show; TUNER_TOKEN keeps it out of the shell's history."),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="The database; by default TUNER_DATABASE_URL, or SQLite in TUNER_HOME.",
    ),
]
Home = Annotated[
    Path | None,
    typer.Option(help="Folder of database, checkpoints and logs; by default TUNER_HOME."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="The worker's own file, which names the scripts that it may run; by default "
        "worker.toml in the home.",
    ),
]

Checkpoints = Annotated[
    str | None,
    typer.Option(
        help="Where checkpoints go: a folder, or an address that fsspec knows, such as "
        "s3://BUCKET/PREFIX; by default TUNER_CHECKPOINTS, or the home."
    ),
]


def settings_of(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as a mapping, values read as YAML.

    Raises:
        InvalidInput: One has no name or no value.
    """
    from tuner.spec.files import parse_yaml

    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput("set", f"expected NAME=VALUE, got {pair!r}")
        try:
            parsed = parse_yaml(value)
        except ValueError as error:
            raise InvalidInput(f"set.{name}", f"{value!r} is not a value") from error
        found[name] = number(parsed)
    return found


def number(value: object) -> object:
    """A value of a file or an option, as a number where it reads as one."""
    # YAML reads inf and nan, which have no dot, as strings.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
