"""Webhooks: made, checked, listed, tried, deleted; who did it is in the audit trail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from tests.tuner.service.simulation import Clock
from tuner import service
from tuner.errors import Conflict, InvalidInput, NotFound
from tuner.service import Context, ServiceSettings, webhooks
from tuner.storage.models import Webhook

URL = "http://127.0.0.1:9/hook/s3cret-path"


@pytest.fixture
def ctx(database_url: str, clock: Clock) -> Iterator[Context]:
    settings = ServiceSettings(webhook_hosts=("127.0.0.1",))
    opened = Context.open(database_url, now=clock, settings=settings)
    yield opened
    opened.close()


def test_the_secret_is_shown_once(ctx: Context) -> None:
    made = webhooks.create_webhook(ctx, "chat", URL, kinds=["study.failed"], tag="x", actor="root")
    assert made.secret.startswith("whsec_")
    (listed,) = webhooks.list_webhooks(ctx)
    assert (listed.name, listed.url, listed.events) == ("chat", URL, ["study.failed"])
    assert (listed.tag, listed.owner) == ("x", "root")
    assert listed == webhooks.show_webhook(ctx, made.id) == webhooks.show_webhook(ctx, "chat")
    assert made.secret not in listed.model_dump_json()
    with ctx.db.session() as session:
        assert session.scalars(select(Webhook.secret)).one() == made.secret


def test_changes_are_in_the_audit_trail_without_what_is_secret(ctx: Context) -> None:
    made = webhooks.create_webhook(ctx, "chat", URL, actor="root")
    webhooks.try_webhook(ctx, made.id, actor="anna")
    webhooks.delete_webhook(ctx, made.id, actor="bob")
    trail = service.events(ctx)
    assert [(e.kind, e.actor) for e in trail] == [
        ("webhook.created", "root"),
        ("webhook.tested", "anna"),
        ("webhook.deleted", "bob"),
    ]
    assert all(e.data == {"webhook": made.id, "name": "chat", "host": "127.0.0.1"} for e in trail)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"url": "http://127.0.0.2/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "nonsense"}, "url"),
        ({"kinds": []}, "events"),
        ({"kinds": ["study.failed", "study.born"]}, "events[1]"),
        ({"tag": ""}, "tag"),
        ({"tag": "x" * 101}, "tag"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_name(
    ctx: Context, changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        webhooks.create_webhook(ctx, **{"name": "chat", "url": URL, **changes})  # type: ignore[arg-type]  # on purpose
    assert caught.value.field == field
    assert webhooks.list_webhooks(ctx) == []
    assert service.events(ctx) == []


def test_names_are_unique_and_free_again(ctx: Context) -> None:
    webhooks.create_webhook(ctx, "chat", URL)
    with pytest.raises(Conflict, match="chat"):
        webhooks.create_webhook(ctx, "chat", URL)
    webhooks.delete_webhook(ctx, "chat")
    assert webhooks.create_webhook(ctx, "chat", URL).id


@pytest.mark.parametrize("webhook", [99, "nobody"])
def test_what_is_not_there(ctx: Context, webhook: int | str) -> None:
    for use in (webhooks.show_webhook, webhooks.delete_webhook, webhooks.try_webhook):
        with pytest.raises(NotFound):
            use(ctx, webhook)
    with pytest.raises(NotFound):
        webhooks.deliveries(ctx, webhook)


def test_the_log_comes_in_pages_the_newest_first(ctx: Context) -> None:
    made = webhooks.create_webhook(ctx, "chat", URL)
    other = webhooks.create_webhook(ctx, "other", URL)
    sent = [webhooks.try_webhook(ctx, made.id).id for _ in range(5)]
    webhooks.try_webhook(ctx, other.id)
    seen: list[int] = []
    cursor = None
    for _ in range(3):
        page = webhooks.deliveries(ctx, made.id, cursor=cursor, limit=2)
        seen += [d.id for d in page.items]
        cursor = page.next_cursor
    assert cursor is None
    assert seen == sent[::-1]
    with pytest.raises(InvalidInput, match="cursor"):
        webhooks.deliveries(ctx, made.id, cursor="WzEsIDJd")
