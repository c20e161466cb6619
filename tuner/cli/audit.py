"""``tuner audit``: what was changed, by whom and when."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from tuner.cli.options import Json, Token, Url
from tuner.cli.output import print_json, print_table
from tuner.cli.studies import connected


def audit(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Lists changes of anything on the server, by whom and when."""
    with connected(url, token) as client:
        found = list(islice(client.audit(), limit))
    if json:
        print_json(found)
        return
    columns = ("id", "when", "who", "what", "study", "trial", "worker", "details")
    rows = [
        [e.id, e.created_at, e.actor, e.kind, e.study_id, e.trial_id, e.worker_id, e.data]
        for e in found
    ]
    print_table(columns, rows)
