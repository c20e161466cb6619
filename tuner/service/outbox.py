"""Messages to webhooks: written in the transaction of what they tell of, sent afterwards.

Either a study has ended and everybody who wants to know has a message waiting, or neither is so.
A message is claimed before it is sent and marked when its receiver has answered; a server that dies
in between leaves it to the next one. So each is delivered at least once, and twice only then. A
receiver that hangs keeps nobody waiting but itself.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from tuner.errors import TunerError
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
MOST = 32
"""Messages under way at once."""
EACH = 4
"""Messages under way at once to one receiver, so that several that hang leave room for others."""
CLAIM = timedelta(minutes=2)
"""After this long, an attempt that nobody told the end of counts as lost."""
PAUSES = tuple(
    timedelta(seconds=seconds) for seconds in (5, 30, 300, 1800, 7200, 18000, 36000, 36000)
)
"""Before the second attempt and each later one; after about a day a message is given up."""

Send = Callable[[Outgoing], Outcome]


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


class Courier:
    """Sends what is due, each message in a thread of its own, and never waits for a receiver.

    Args:
        ctx: The service.
        send: Makes one attempt.
    """

    def __init__(self, ctx: Context, send: Send) -> None:
        self._ctx = ctx
        self._send = send
        self._threads = ThreadPoolExecutor(MOST, "webhook")
        self._lock = threading.Lock()
        self._under_way: Counter[int] = Counter()
        """How many messages to each webhook."""

    def deliver(self) -> list[Future[None]]:
        """Begins to send what is due, as much as there is room for.

        Returns:
            An attempt for each message, which ends when it is recorded what became of it. It raises
            ``Unavailable`` where that cannot be: then the message may be sent again.

        Raises:
            Unavailable: The database cannot be reached.
        """
        now = self._ctx.now()
        with self._lock:
            room = MOST - self._under_way.total()
            busy = [webhook for webhook, n in self._under_way.items() if n]
        if room <= 0:
            return []
        with self._ctx.db.session() as session:
            if not webhooks.due(session, now, busy):
                return []
        with self._ctx.db.write() as session:
            claimed = webhooks.claim(session, now, now + CLAIM, room, each=EACH, busy=busy)
        with self._lock:
            self._under_way.update(webhook.id for _, webhook in claimed)
        return [self._threads.submit(self._attempt, *one) for one in claimed]

    def close(self) -> None:
        """Waits for the attempts that have begun."""
        self._threads.shutdown()

    def _attempt(self, delivery: Delivery, webhook: Webhook) -> None:
        try:
            outgoing = Outgoing(webhook.url, webhook.secret, delivery.message, delivery.body)
            _record(self._ctx, delivery, webhook, self._send(outgoing))
        except Exception as error:
            # Whoever began this may not look back; the next attempt comes when the claim is over.
            bug = not isinstance(error, TunerError)
            log.warning("%s may be sent again: %s", delivery.message, error, exc_info=bug)
            raise
        finally:
            with self._lock:
                self._under_way[webhook.id] -= 1


def deliver(ctx: Context, send: Send) -> int:
    """Sends once what is due, and waits for it.

    Args:
        ctx: The service.
        send: Makes one attempt.

    Returns:
        How many messages were sent; there may be more.

    Raises:
        Unavailable: The database cannot be reached; what was sent may be sent again.
    """
    courier = Courier(ctx, send)
    try:
        begun = courier.deliver()
    finally:
        courier.close()
    for attempt in begun:
        attempt.result()
    return len(begun)


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
