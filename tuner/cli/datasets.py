"""``tuner dataset``: files that studies can name, on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tuner.cli.options import Json, Token, Url
from tuner.cli.output import print_json, print_table, say
from tuner.cli.studies import connected
from tuner.errors import NotFound

app = typer.Typer(help="Upload, list and delete datasets.", no_args_is_help=True)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A CSV, Parquet or npz file.")],
    name: Annotated[
        str | None, typer.Option(help="Its name in studies; by default the file's.")
    ] = None,
    kind: Annotated[
        Literal["csv", "parquet", "npz"] | None,
        typer.Option("--format", help="By default, what the file's ending says."),
    ] = None,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Uploads a file, which a study then names: ``path: dataset:NAME``."""
    with connected(url, token) as client:
        made = client.upload(file, name, format=kind)
    if json:
        print_json(made)
    else:
        say(f"{made.reference}: {made.rows} rows, {len(made.columns)} columns")


@app.command("list")
def list_(url: Url = None, token: Token = None, json: Json = False) -> None:
    """Lists datasets."""
    with connected(url, token) as client:
        found = client.datasets()
    if json:
        print_json(found)
        return
    columns = ("name", "format", "rows", "columns", "bytes", "uploaded")
    rows = [(d.name, d.format, d.rows, len(d.columns), d.size_bytes, d.created_at) for d in found]
    print_table(columns, rows)


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="Its name.")],
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Deletes a dataset that no open study uses."""
    with connected(url, token) as client:
        found = next((d for d in client.datasets() if d.name == name), None)
        if found is None:
            raise NotFound("dataset", name)
        client.delete_dataset(found.id)
    if json:
        print_json(found)
    else:
        say(f"deleted {name}")
