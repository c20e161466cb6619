"""What whoever runs a server asks of it: its webhooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tuner.client.connection import Connection
from tuner.errors import NotFound
from tuner.service.webhooks import CreatedWebhook, DeliveryView, WebhookView


class Operating(Connection):
    """The client's part for those who run the service."""

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
