"""What whoever runs a server asks of it: its workers and its webhooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tuner.client.connection import Connection
from tuner.errors import NotFound
from tuner.service import EventView, WorkerView
from tuner.service.pools import PoolView
from tuner.service.webhooks import CreatedWebhook, DeliveryView, WebhookView


class Operating(Connection):
    """The client's part for those who run the service."""

    def audit(self) -> Iterator[EventView]:
        """Every change of anything, by whom and when, the newest first."""
        return self._pages(EventView, "audit", {})

    # Workers

    def workers(self) -> list[WorkerView]:
        """All workers, those heard of last first."""
        found = self._pages(WorkerView, "workers", {})
        return sorted(found, key=lambda worker: worker.heartbeat_at, reverse=True)

    def drain_worker(self, worker: int) -> WorkerView:
        """Lets a worker finish what it holds and gives it no more."""
        return self._read(WorkerView, "POST", f"workers/{worker}/drain", repeatable=True)

    def pools(self) -> list[PoolView]:
        """Pools of workers that something else places, such as Ray, by name."""
        return self._read(list[PoolView], "GET", "pools")

    def scale_pool(self, pool: int, wanted: int | None) -> PoolView:
        """Says how many workers a pool should have; None: as many as fit."""
        body = {"wanted": wanted}
        return self._read(PoolView, "POST", f"pools/{pool}/scale", json=body, repeatable=True)

    # Webhooks

    def create_webhook(
        self, name: str, url: str, *, events: Sequence[str] | None = None, tag: str | None = None
    ) -> CreatedWebhook:
        """Has an address told when studies end; the answer alone holds the secret.

        Args:
            name: What it is called.
            url: Where messages are posted.
            events: Some of study.completed, study.failed and study.cancelled; by default all.
            tag: Only about studies with this tag.
        """
        body = {"name": name, "url": url, "events": events, "tag": tag}
        given = {key: value for key, value in body.items() if value is not None}
        return self._read(CreatedWebhook, "POST", "webhooks", json=given)

    def webhooks(self) -> list[WebhookView]:
        """All webhooks, by name."""
        return self._read(list[WebhookView], "GET", "webhooks")

    def webhook(self, webhook: int | str) -> WebhookView:
        """A webhook by its id or its name."""
        for found in self.webhooks():
            if webhook in (found.id, found.name, str(found.id)):
                return found
        raise NotFound("webhook", webhook)

    def delete_webhook(self, webhook: int) -> None:
        """Removes a webhook and its log."""
        self._transport.call("DELETE", f"webhooks/{webhook}", repeatable=True)

    def try_webhook(self, webhook: int) -> DeliveryView:
        """Sends a webhook a message that means nothing; :meth:`deliveries` says how it went."""
        return self._read(DeliveryView, "POST", f"webhooks/{webhook}/test")

    def deliveries(self, webhook: int) -> Iterator[DeliveryView]:
        """What was sent to a webhook, the newest first."""
        return self._pages(DeliveryView, f"webhooks/{webhook}/deliveries", {})
