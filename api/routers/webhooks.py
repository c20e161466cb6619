"""Webhooks: who is told when a study ends, and the log of what was sent."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, status
from pydantic import BaseModel, ConfigDict, Field

from api.problems import documented
from api.routers.parameters import Cursor, Limit
from api.security import Admin, Ctx, TokenFirst
from tuner.errors import Conflict, NotFound, UnknownName
from tuner.service import Page, webhooks
from tuner.service.outbox import STUDY_EVENTS
from tuner.service.webhooks import CreatedWebhook, DeliveryView, WebhookView

router = APIRouter(route_class=TokenFirst, prefix="/webhooks", tags=["webhooks"])

WebhookId = Annotated[int, Path(ge=1, lt=2**31, description="The webhook's id.", examples=[1])]


class NewWebhook(BaseModel):
    """Where to post, and about what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=255, description="What it is called.", examples=["chat"])
    url: str = Field(
        max_length=2000,
        description="An https address on the public internet, or a host that the server's "
        "TUNER_WEBHOOK_HOSTS allows.",
        examples=["https://hooks.example/tuner"],
    )
    events: list[str] = Field(
        default=list(STUDY_EVENTS),
        max_length=len(STUDY_EVENTS),
        description="Ends that it is told of; all of them by default.",
        examples=[["study.failed"]],
    )
    tag: str | None = Field(
        default=None, max_length=100, description="Only about studies with this tag."
    )


@router.post(
    "",
    summary="Create a webhook",
    status_code=status.HTTP_201_CREATED,
    responses=documented(UnknownName, Conflict),
)
def create_webhook(context: Ctx, principal: Admin, webhook: NewWebhook) -> CreatedWebhook:
    """From now on the address is told when a study ends; the answer alone holds the secret.

    Messages are signed in the form of Standard Webhooks: ``webhook-signature`` is the HMAC-SHA256
    of ``webhook-id``, ``webhook-timestamp`` and the body. One that is not answered with a 2xx is
    sent again, later and later, for about a day. The host is resolved now and before each attempt;
    where it leads to a private address, nothing is sent.
    """
    return webhooks.create_webhook(
        context,
        webhook.name,
        webhook.url,
        kinds=webhook.events,
        tag=webhook.tag,
        actor=principal.name,
    )


@router.get("", summary="Webhooks", responses=documented())
def list_webhooks(context: Ctx, _principal: Admin) -> list[WebhookView]:
    """Every webhook, by name, without its secret."""
    return webhooks.list_webhooks(context)


@router.get("/{webhook_id}", summary="Show a webhook", responses=documented(NotFound))
def show_webhook(context: Ctx, _principal: Admin, webhook_id: WebhookId) -> WebhookView:
    """One webhook, without its secret."""
    return webhooks.show_webhook(context, webhook_id)


@router.delete(
    "/{webhook_id}",
    summary="Delete a webhook",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=documented(NotFound),
)
def delete_webhook(context: Ctx, principal: Admin, webhook_id: WebhookId) -> None:
    """Removes the webhook and the log of its messages; what waits is not sent."""
    webhooks.delete_webhook(context, webhook_id, actor=principal.name)


@router.post(
    "/{webhook_id}/test",
    summary="Test a webhook",
    status_code=status.HTTP_202_ACCEPTED,
    responses=documented(NotFound),
)
def try_webhook(context: Ctx, principal: Admin, webhook_id: WebhookId) -> DeliveryView:
    """Sends a message ``webhook.test`` as any other is sent; the log says what became of it."""
    return webhooks.try_webhook(context, webhook_id, actor=principal.name)


@router.get("/{webhook_id}/deliveries", summary="What was sent", responses=documented(NotFound))
def deliveries(
    context: Ctx,
    _principal: Admin,
    webhook_id: WebhookId,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DeliveryView]:
    """The webhook's messages, the newest first: state, attempts, and the receiver's last answer."""
    return webhooks.deliveries(context, webhook_id, cursor=cursor, limit=limit)
