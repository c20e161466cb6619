"""Messages to webhooks: written in the transaction of what they tell of, sent afterwards.

Either a study has ended and everybody who wants to know has a message waiting, or neither is so.
A message is claimed before it is sent and marked after; a server that dies in between leaves it to
the next one. So each is delivered at least once, and twice only then.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from tuner.storage import events, tallies, trials, webhooks
from tuner.storage.models import Delivery, Webhook
from tuner.storage.studies import StudyRow
from tuner.webhooks import Outcome, Outgoing

if TYPE_CHECKING:
    from tuner.service.context import Context

log = logging.getLogger(__name__)

STUDY_EVENTS = ("study.completed", "study.failed", "study.cancelled")
"""What a webhook can ask to be told."""
TEST_EVENT = "webhook.test"
BATCH = 32
"""Messages sent at once."""
CLAIM = timedelta(minutes=2)
"""After this long, an attempt that nobody told the end of counts as lost."""
PAUSES = tuple(
    timedelta(seconds=seconds) for seconds in (5, 30, 300, 1800, 7200, 18000, 36000, 36000)
)
"""Before the second attempt and each later one; after about a day a message is given up."""

Send = Callable[[Sequence[Outgoing]], Sequence[Outcome]]


def announce(session: Session, study: StudyRow, now: datetime) -> None:
    """Puts a message about a study that has just ended into the outbox of all who want it."""
    kind = f"study.{study.state}"
    wanted = webhooks.listening(session, kind, study.tags)
    if wanted:
        data = _told(session, study)
        webhooks.put(session, [message(hook, kind, data, now, study.id) for hook in wanted])


def message(
    webhook: Webhook, kind: str, data: dict[str, Any], now: datetime, study_id: int | None = None
) -> Delivery:
    """A message to one webhook, due at once."""
    return Delivery(
        webhook_id=webhook.id,
        message=f"msg_{secrets.token_hex(16)}",
        kind=kind,
        study_id=study_id,
        body={"type": kind, "timestamp": now.isoformat(), "data": data},
        state="waiting",
        attempts=0,
        due_at=now,
        created_at=now,
    )


def deliver(ctx: Context, send: Send) -> int:
    """Sends a batch of what is due.

    Args:
        ctx: The service.
        send: Makes one attempt for each message.

    Returns:
        How many were due; call again at once when it was a whole batch.

    Raises:
        Unavailable: The database cannot be reached; what was sent may be sent again.
    """
    now = ctx.now()
    with ctx.db.session() as session:
        if not webhooks.due(session, now):
            return 0
    with ctx.db.write() as session:
        claimed = webhooks.claim(session, now, now + CLAIM, BATCH)
        outgoing = [Outgoing(h.url, h.secret, d.message, d.body) for d, h in claimed]
    for (delivery, webhook), outcome in zip(claimed, send(outgoing), strict=True):
        _record(ctx, delivery, webhook, outcome)
    return len(claimed)


def _record(ctx: Context, delivery: Delivery, webhook: Webhook, outcome: Outcome) -> None:
    now = ctx.now()
    fields = {"webhook": webhook.id, "delivery": delivery.id}
    if delivery.study_id is not None:
        fields["study"] = delivery.study_id
    good = outcome.error is None
    again = None if good or delivery.attempts > len(PAUSES) else PAUSES[delivery.attempts - 1]
    with ctx.db.write() as session:
        noted = webhooks.record(
            session,
            delivery.id,
            state="delivered" if good else "failed" if again is None else "waiting",
            due_at=None if again is None else now + again,
            status=outcome.status,
            error=outcome.error,
            ended_at=now if again is None else None,
            # What arrived has arrived; that it did not is for the last attempt to say.
            attempt=None if good else delivery.attempts,
        )
        if noted and again is None and not good:
            told = {
                "webhook": webhook.id,
                "name": webhook.name,
                "delivery": delivery.id,
                "error": outcome.error,
            }
            new = [events.NewEvent("webhook.failed", delivery.study_id, data=told)]
            events.add(session, new, None, now)
    if good:
        log.info("%s delivered to webhook %s", delivery.kind, webhook.name, extra=fields)
    else:
        log.warning(
            "%s not delivered to webhook %s, %s: %s",
            delivery.kind,
            webhook.name,
            "given up" if again is None else f"again in {again}",
            outcome.error,
            extra=fields,
        )


def _told(session: Session, study: StudyRow) -> dict[str, Any]:
    """What a message says of a study: enough to act on, and little enough to be read in a chat."""
    counts = tallies.counts(session, [study.id])[study.id]
    best = None
    for row in trials.by_ids(session, tallies.best_ids(session, [study]).values()).values():
        best = {"trial": row.id, "number": row.number, "values": row.values, "params": row.params}
    return {
        "study": study.id,
        "name": study.name,
        "state": study.state,
        "reason": study.reason,
        "owner": study.owner,
        "tags": study.tags,
        "counts": {"complete": counts.complete, "pruned": counts.pruned, "fail": counts.fail},
        "best": best,
        "device_seconds": study.device_seconds,
        "created_at": study.created_at.isoformat(),
        "finished_at": study.finished_at.isoformat() if study.finished_at else None,
    }
