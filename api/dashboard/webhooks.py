"""Who is told when a study ends, and what became of the last messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.dashboard.render import Viewer, render
from api.dashboard.views import Shown
from api.security import Admin, Ctx, TokenFirst
from tuner.service import webhooks
from tuner.service.webhooks import DeliveryView, WebhookView
from tuner.webhooks.targets import host_of

router = APIRouter(route_class=TokenFirst)

MOST = 10
"""Messages shown of each webhook."""


@dataclass(frozen=True)
class Told:
    """A webhook and its last messages."""

    webhook: WebhookView
    host: str
    """Of its address, whose path some receivers take for a password."""
    deliveries: Sequence[DeliveryView]


@dataclass(frozen=True)
class WebhooksPage(Shown):
    """All webhooks."""

    webhooks: Sequence[Told]


@router.get("/webhooks")
def show_webhooks(request: Request, context: Ctx, who: Viewer, _admin: Admin) -> Response:
    """All webhooks, by name."""
    page = WebhooksPage(
        title="Webhooks",
        section="/webhooks",
        who=who,
        webhooks=[
            Told(
                hook,
                host_of(hook.url),
                webhooks.deliveries(context, hook.id, limit=MOST).items,
            )
            for hook in webhooks.list_webhooks(context)
        ],
    )
    return render(request, "webhooks.html", page)
