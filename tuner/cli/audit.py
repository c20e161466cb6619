"""``tuner audit``: what was changed, by whom and when."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.options import Json, Token, Url
from tuner.cli.output import print_json, print_table
from tuner.cli.studies import connected

if TYPE_CHECKING:
    from tuner.service import EventView


def audit(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Lists every change on the server: what, by whom and when."""
    with connected(url, token) as client:
        found = list(islice(client.audit(), limit))
    if json:
        print_json(found)
        return
    rows = [[e.created_at, e.actor, e.kind, _about(e), e.data] for e in found]
    print_table(("when", "who", "what", "of", "details"), rows)


def _about(event: EventView) -> str:
    """What an event happened to: ``study 3 trial 41``."""
    ids = {"study": event.study_id, "trial": event.trial_id, "worker": event.worker_id}
    return " ".join(f"{kind} {number}" for kind, number in ids.items() if number is not None)
