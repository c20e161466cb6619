"""``tuner webhook``: who is told when a study ends."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.options import Json, Token, Url
from tuner.cli.output import err, out, print_json, print_table, say
from tuner.cli.studies import connected
from tuner.errors import TunerError

if TYPE_CHECKING:
    from tuner.client import Client
    from tuner.service.webhooks import DeliveryView

app = typer.Typer(help="Tell other services when a study ends.", no_args_is_help=True)

Webhook = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id, or its name.")]
PATIENCE_SECONDS = 15.0
"""How long ``test`` waits for the first attempt, which a server makes within seconds."""


@app.command()
def create(
    address: Annotated[str, typer.Argument(metavar="URL", help="Where to post, over https.")],
    name: Annotated[str, typer.Option(help="Its name.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="study.completed, study.failed or study.cancelled; may be repeated."),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only about studies with this tag.")] = None,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Registers an address to be told when studies end, and prints its signing secret, once."""
    with connected(url, token) as client:
        made = client.create_webhook(name, address, events=event or None, tag=tag)
    if json:
        print_json(made)
        return
    err.print(f"webhook {made.id}; its secret is shown only now", markup=False)
    out.print(made.secret, markup=False, soft_wrap=True)


@app.command("list")
def list_(url: Url = None, token: Token = None, json: Json = False) -> None:
    """Lists webhooks, without their secrets."""
    with connected(url, token) as client:
        found = client.webhooks()
    if json:
        print_json(found)
        return
    columns = ("id", "name", "url", "events", "tag", "created")
    rows = [[w.id, w.name, w.url, " ".join(w.events), w.tag, w.created_at] for w in found]
    print_table(columns, rows)


@app.command()
def delete(webhook: Webhook, url: Url = None, token: Token = None, json: Json = False) -> None:
    """Removes a webhook and the log of what was sent to it."""
    with connected(url, token) as client:
        found = client.webhook(webhook)
        client.delete_webhook(found.id)
    if json:
        print_json(found)
    else:
        say(f"webhook {found.id} ({found.name}) is deleted")


@app.command("test")
def try_(webhook: Webhook, url: Url = None, token: Token = None, json: Json = False) -> None:
    """Sends a test message, and says what became of it."""
    with connected(url, token) as client:
        found = client.webhook(webhook)
        sent = _tried(client, found.id, client.try_webhook(found.id).id)
    if json:
        print_json(sent)
    elif sent.state == "delivered":
        say(f"delivered: {found.url} answered {sent.status}")
    if sent.state != "delivered":
        raise TunerError(f"not delivered to {found.url}: {sent.error or 'no attempt was made yet'}")


@app.command()
def log(
    webhook: Webhook,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Lists what was sent to a webhook and what waits."""
    with connected(url, token) as client:
        sent = list(islice(client.deliveries(client.webhook(webhook).id), limit))
    if json:
        print_json(sent)
        return
    columns = ("id", "message", "study", "state", "attempts", "next", "answer", "created")
    rows = [
        [d.id, d.kind, d.study_id, d.state, d.attempts, d.due_at, d.error or d.status, d.created_at]
        for d in sent
    ]
    print_table(columns, rows)


def _tried(client: Client, webhook: int, delivery: int) -> DeliveryView:
    """The message after its first attempt, or as it is when patience ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        sent = next(d for d in client.deliveries(webhook) if d.id == delivery)
        settled = sent.state != "waiting" or sent.error is not None
        if settled or time.monotonic() > deadline:
            return sent
        time.sleep(0.2)
