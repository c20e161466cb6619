"""Webhooks, and the outbox of messages to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.storage.models import Delivery, Webhook


def add(session: Session, webhook: Webhook) -> int:
    """Stores a new webhook and says its id."""
    session.add(webhook)
    session.flush()
    return webhook.id


def get(session: Session, webhook: int | str, *, lock: bool = False) -> Webhook:
    """One webhook, by its id or its name.

    Raises:
        NotFound: It is not there.
    """
    column = Webhook.id if isinstance(webhook, int) else Webhook.name
    query = select(Webhook).where(column == webhook)
    found = session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound("webhook", webhook)
    return found


def by_name(session: Session, name: str) -> Webhook | None:
    """The webhook of that name."""
    return session.scalar(select(Webhook).where(Webhook.name == name))


def every(session: Session) -> list[Webhook]:
    """All webhooks, by name."""
    return list(session.scalars(select(Webhook).order_by(Webhook.name)))


def remove(session: Session, webhook: Webhook) -> None:
    """Removes a webhook; the database removes its messages with it."""
    session.delete(webhook)
    session.flush()


def listening(session: Session, kind: str, tags: Collection[str]) -> list[Webhook]:
    """The webhooks that want messages of a kind about a study with these tags.

    They stay until the transaction ends, so that one that is deleted meanwhile cannot make the
    study's end fail.
    """
    rows = session.scalars(
        select(Webhook)
        .where(or_(Webhook.tag.is_(None), Webhook.tag.in_(list(tags))))
        .order_by(Webhook.id)
        .with_for_update(read=True, key_share=True)
    )
    return [webhook for webhook in rows if kind in webhook.events]


def put(session: Session, deliveries: Sequence[Delivery]) -> None:
    """Puts messages into the outbox, to be sent once the transaction is committed."""
    session.add_all(deliveries)
    session.flush()


def due(session: Session, now: datetime, busy: Collection[int] = ()) -> bool:
    """Whether some message should be sent now, but to those that are busy."""
    found = select(Delivery.id).where(Delivery.due_at <= now, Delivery.webhook_id.not_in(busy))
    return session.scalar(found.limit(1)) is not None


def claim(
    session: Session,
    now: datetime,
    until: datetime,
    limit: int,
    *,
    each: int,
    busy: Collection[int] = (),
) -> list[tuple[Delivery, Webhook]]:
    """Takes messages that are due, those due longest first; nobody else gets them until ``until``.

    Messages that another server is claiming now are skipped.

    Args:
        session: A transaction that writes.
        now: The present moment.
        until: The end of the claim.
        limit: How many at most.
        each: How many at most to one webhook.
        busy: Webhooks that get none now.
    """
    place = func.row_number().over(
        partition_by=Delivery.webhook_id, order_by=(Delivery.due_at, Delivery.id)
    )
    first = (
        select(Delivery.id, place.label("place"))
        .where(Delivery.due_at <= now, Delivery.webhook_id.not_in(busy))
        .subquery()
    )
    rows = session.execute(
        select(Delivery, Webhook)
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .join(first, first.c.id == Delivery.id)
        # Said of the row too: it is looked at again once it is locked.
        .where(Delivery.due_at <= now, first.c.place <= each)
        .order_by(Delivery.due_at, Delivery.id)
        .limit(limit)
        .with_for_update(of=Delivery, skip_locked=True)
    )
    taken = [(delivery, webhook) for delivery, webhook in rows]
    for delivery, _ in taken:
        delivery.attempts += 1
        delivery.due_at = until
    session.flush()
    return taken


def record(
    session: Session,
    delivery_id: int,
    *,
    state: str,
    due_at: datetime | None,
    status: int | None,
    error: str | None,
    ended_at: datetime | None,
    attempt: int | None,
) -> bool:
    """Notes what became of an attempt; says whether it was still for this one to say.

    Args:
        session: The transaction.
        delivery_id: Which message.
        state: Its state from now on.
        due_at: When to try again, if at all.
        status: What the receiver answered.
        error: Why it was not delivered.
        ended_at: When it was over.
        attempt: Only if no later attempt has begun; None: whichever has.
    """
    change = (
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state == "waiting")
        .values(state=state, due_at=due_at, status=status, error=error, ended_at=ended_at)
        .execution_options(synchronize_session=False)
    )
    if attempt is not None:
        change = change.where(Delivery.attempts == attempt)
    return bool(session.execute(change.returning(Delivery.id)).first())


def log(session: Session, webhook_id: int, before: int | None, limit: int) -> list[Delivery]:
    """A webhook's messages, the newest first."""
    query = select(Delivery).where(Delivery.webhook_id == webhook_id)
    if before is not None:
        query = query.where(Delivery.id < before)
    return list(session.scalars(query.order_by(Delivery.id.desc()).limit(limit)))


def waiting(session: Session) -> int:
    """How many messages are not delivered yet."""
    count = select(func.count()).select_from(Delivery).where(Delivery.due_at.is_not(None))
    return session.scalar(count) or 0
