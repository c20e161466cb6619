"""``tuner db``: the tables of the database, brought to the version that this code expects."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tuner.cli.options import DatabaseUrl, Json
from tuner.cli.output import print_json, say
from tuner.errors import InvalidInput
from tuner.settings import Settings

app = typer.Typer(help="Create, upgrade and inspect the database.", no_args_is_help=True)


@app.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="Where to go; the newest by default.")] = "head",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Brings the database up to this version; does nothing if it is there already."""
    from tuner.storage import migrate

    url = Settings.read(database_url=database_url).database_url
    _tell(url, migrate.upgrade(url, revision), json)


@app.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Where to go; `base` drops every table.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before data is lost.")] = False,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Takes the database back to an earlier version; what that one has no place for is lost."""
    from tuner.storage import migrate

    url = Settings.read(database_url=database_url).database_url
    if not yes and (lost := migrate.losses(url, revision)):
        told = f"this drops {', '.join(lost)}"
        if not sys.stdin.isatty():
            raise InvalidInput("yes", f"{told}; say --yes where that is meant")
        typer.confirm(f"{told}. Go on?", abort=True, err=True)
    _tell(url, migrate.downgrade(url, revision), json)


@app.command()
def current(database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Shows the version that the database is at, and the one that this code expects."""
    from tuner.storage import migrate

    url = Settings.read(database_url=database_url).database_url
    _tell(url, migrate.current(url), json)


def _tell(url: str, revision: str | None, as_json: bool) -> None:
    from tuner.storage import migrate
    from tuner.storage.engine import parse_url

    head = migrate.head()
    safe = parse_url(url).render_as_string(hide_password=True)
    if as_json:
        print_json({"database": safe, "revision": revision, "head": head})
        return
    state = "up to date" if revision == head else f"this version expects {head}"
    say(f"{safe} is at {revision or 'no revision'}: {state}")
