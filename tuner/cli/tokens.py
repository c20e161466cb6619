"""``tuner token``: access tokens, made and revoked in the database itself, without a server."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.options import DatabaseUrl, Json
from tuner.cli.output import err, out, print_json, print_table, say
from tuner.errors import InvalidInput, NotFound
from tuner.settings import Settings

if TYPE_CHECKING:
    from tuner.service import Context

MOST_DAYS = 36_525

app = typer.Typer(
    help="Create, list and revoke access tokens, in the database itself: run it where the server "
    "runs, with the server's TUNER_HOME or TUNER_DATABASE_URL.",
    no_args_is_help=True,
)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who uses it; the audit trail shows this name.")],
    scope: Annotated[
        list[str],
        typer.Option(help="read, submit (reads too), work or admin (all); may be repeated."),
    ],
    days: Annotated[
        float | None, typer.Option(help="Days until it expires; by default never.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the token of that name, which stops working.")
    ] = False,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Makes a token and prints its secret, once."""
    from tuner.service import tokens

    if days is not None and not 0 < days <= MOST_DAYS:
        raise InvalidInput("days", f"{days:g} is not above 0 and at most {MOST_DAYS}")
    with opened(database_url) as context:
        expires_at = None if days is None else context.now() + timedelta(days=days)
        made = tokens.create_token(
            context, name, scope, expires_at=expires_at, actor=actor(), replace=replace
        )
    if json:
        print_json(made)
        return
    err.print(f"token {made.id}; its secret is shown only now", markup=False)
    out.print(made.secret, markup=False, soft_wrap=True)


@app.command("list")
def list_(database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Lists tokens, without their secrets."""
    from tuner.service import tokens

    with opened(database_url) as context:
        found = tokens.list_tokens(context)
    if json:
        print_json(found)
        return
    columns = ("id", "name", "scopes", "active", "created", "expires", "last used")
    rows = [
        [t.id, t.name, " ".join(t.scopes), t.active, t.created_at, t.expires_at, t.last_used_at]
        for t in found
    ]
    print_table(columns, rows)


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(help="Its name or its id.")],
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Ends a token."""
    from tuner.service import tokens

    with opened(database_url) as context:
        try:
            found = tokens.revoke_token(context, token, actor=actor())
        except NotFound:
            if not (token.isdecimal() and len(token) < 11 and int(token) < 2**31):
                raise
            found = tokens.revoke_token(context, int(token), actor=actor())
    if json:
        print_json(found)
    else:
        say(f"token {found.id} ({found.name}) is revoked")


@contextmanager
def opened(database_url: str | None) -> Iterator[Context]:
    """A service context on the database of the settings, its tables checked.

    Raises:
        InvalidInput: It is a file that is not there: no server would know a token in a new one.
    """
    from tuner.service import Context
    from tuner.storage import migrate
    from tuner.storage.engine import parse_url

    url = Settings.read(database_url=database_url).database_url
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
        raise InvalidInput(
            "database_url",
            f"there is no database {parsed.database}; tokens are made in the server's own: set "
            "TUNER_HOME or TUNER_DATABASE_URL as the server has it (`tuner db upgrade` makes a "
            "new one)",
        )
    migrate.prepare(url)
    context = Context.open(url)
    try:
        yield context
    finally:
        context.close()


def actor() -> str:
    """Who types, for the audit trail: these commands need no token, but an account here."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):  # an id without a name, as containers have
        return f"command line (user {os.getuid()})"
