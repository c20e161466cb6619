"""Webhooks: made, listed, tested, deleted, and the log of what was sent to them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field
from sqlalchemy.orm import Session

from tuner.errors import Conflict, InvalidInput, UnknownName
from tuner.service import cursor as cursors
from tuner.service.names import check_name
from tuner.service.outbox import STUDY_EVENTS, TEST_EVENT, message
from tuner.service.views import Page, View
from tuner.storage import events, webhooks
from tuner.storage.models import Delivery, Webhook
from tuner.webhooks import check, host_of, new_secret

if TYPE_CHECKING:
    from tuner.service.context import Context

MAX_TAG = 100


class WebhookView(View):
    """A webhook as it may be shown: all but its secret."""

    id: int
    name: str
    url: str
    events: list[str] = Field(description="Kinds of messages that it gets.")
    tag: str | None = Field(description="Only about studies with this tag; null: about all.")
    owner: str | None
    created_at: datetime


class CreatedWebhook(WebhookView):
    """A webhook just made, with the secret that is never shown again."""

    secret: str = Field(description="What its receiver verifies signatures with.")


class DeliveryView(View):
    """One message to a webhook, and how far it is."""

    id: int
    webhook_id: int
    message: str = Field(description="The header ``webhook-id``: the same at every attempt.")
    kind: str
    study_id: int | None
    state: str = Field(description="waiting, delivered or failed")
    attempts: int
    due_at: datetime | None = Field(description="The next attempt; null: there is none.")
    status: int | None = Field(description="What the receiver answered last.")
    error: str | None = Field(description="Why the last attempt failed.")
    created_at: datetime
    ended_at: datetime | None
    body: dict[str, Any]


def create_webhook(
    ctx: Context,
    name: str,
    url: str,
    *,
    kinds: Collection[str] = STUDY_EVENTS,
    tag: str | None = None,
    actor: str | None = None,
) -> CreatedWebhook:
    """Makes a webhook.

    Args:
        ctx: The service.
        name: What it is called.
        url: Where messages are posted.
        kinds: What it is told, some of ``STUDY_EVENTS``.
        tag: Only about studies with this tag.
        actor: Who asked; its owner.

    Raises:
        InvalidInput: A value is wrong, or the address may not be posted to; nothing is stored.
        Conflict: There is one of that name.
    """
    check_name("name", name)
    if tag is not None:
        check_name("tag", tag, MAX_TAG)
    if not kinds:
        raise InvalidInput("events", f"expected some of {', '.join(STUDY_EVENTS)}")
    for i, kind in enumerate(kinds):
        if kind not in STUDY_EVENTS:
            raise UnknownName("event", kind, list(STUDY_EVENTS), f"events[{i}]")
    check(url, ctx.settings.webhook_hosts)
    now = ctx.now()
    with ctx.db.write() as session:
        if webhooks.by_name(session, name) is not None:
            raise Conflict(f"there is a webhook named {name!r} already", name=name)
        webhook = Webhook(
            name=name,
            url=url,
            secret=new_secret(),
            events=[kind for kind in STUDY_EVENTS if kind in kinds],
            tag=tag,
            owner=actor,
            created_at=now,
        )
        webhooks.add(session, webhook)
        _note(session, "webhook.created", webhook, actor, now)
        return CreatedWebhook(**_view(webhook).model_dump(), secret=webhook.secret)


def list_webhooks(ctx: Context) -> list[WebhookView]:
    """All webhooks, by name, without their secrets."""
    with ctx.db.session() as session:
        return [_view(webhook) for webhook in webhooks.every(session)]


def show_webhook(ctx: Context, webhook: int | str) -> WebhookView:
    """One webhook, by its id or its name.

    Raises:
        NotFound: It is not there.
    """
    with ctx.db.session() as session:
        return _view(webhooks.get(session, webhook))


def delete_webhook(ctx: Context, webhook: int | str, *, actor: str | None = None) -> None:
    """Removes a webhook with its log; what still waited is not sent.

    Raises:
        NotFound: It is not there.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        found = webhooks.get(session, webhook, lock=True)
        webhooks.remove(session, found)
        _note(session, "webhook.deleted", found, actor, now)


def try_webhook(ctx: Context, webhook: int | str, *, actor: str | None = None) -> DeliveryView:
    """Sends a webhook a message that means nothing, on the way that others take.

    Raises:
        NotFound: It is not there.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        found = webhooks.get(session, webhook)
        sent = message(found, TEST_EVENT, {"webhook": found.id, "name": found.name}, now)
        webhooks.put(session, [sent])
        _note(session, "webhook.tested", found, actor, now)
        return _delivery_view(sent)


def deliveries(
    ctx: Context, webhook: int | str, *, cursor: str | None = None, limit: int = 50
) -> Page[DeliveryView]:
    """What was sent to a webhook and what waits, the newest first, a page at a time.

    Raises:
        NotFound: It is not there.
        InvalidInput: The cursor is none of this list.
    """
    after = cursors.read(cursor, [(int,)])
    with ctx.db.session() as session:
        found = webhooks.get(session, webhook)
        rows = webhooks.log(session, found.id, after[0] if after else None, limit + 1)
        more, rows = len(rows) > limit, rows[:limit]
        return Page(
            items=[_delivery_view(row) for row in rows],
            next_cursor=cursors.write([rows[-1].id]) if more else None,
        )


def _view(webhook: Webhook) -> WebhookView:
    return WebhookView(**{name: getattr(webhook, name) for name in WebhookView.model_fields})


def _delivery_view(delivery: Delivery) -> DeliveryView:
    return DeliveryView(**{name: getattr(delivery, name) for name in DeliveryView.model_fields})


def _note(session: Session, kind: str, webhook: Webhook, actor: str | None, now: datetime) -> None:
    # The host alone: some receivers take whoever knows the path for one who may post.
    data = {"webhook": webhook.id, "name": webhook.name, "host": host_of(webhook.url)}
    events.add(session, [events.NewEvent(kind, data=data)], actor, now)
