"""The dashboard: pages rendered on the server, small ES modules, no build step, no CDN."""

from __future__ import annotations

from fastapi import FastAPI

from api.dashboard import (
    actions,
    advisor,
    assets,
    catalogue,
    compare,
    confirm,
    form,
    login,
    reference,
    studies,
    study,
    trial,
    vary,
    webhooks,
    workers,
)
from api.dashboard.render import problem_page
from tuner.service import utc_now
from tuner.service.memo import Memo

PAGES = (
    login,
    studies,
    study,
    compare,
    trial,
    workers,
    webhooks,
    form,
    vary,
    advisor,
    actions,
    confirm,
    catalogue,
    reference,
)
"""The modules whose routers answer with them."""


def install(app: FastAPI) -> None:
    """Adds what pages need: their assets, and the form that errors take for people."""
    app.add_route(assets.PATH, assets.serve, name="assets", include_in_schema=False)
    app.state.pieces = Memo(utc_now, size=100)
    app.state.error_page = problem_page


__all__ = ["PAGES", "install"]
