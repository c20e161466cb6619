"""The dashboard: pages rendered on the server, small ES modules, no build step, no CDN."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response

from api.dashboard import actions, advisor, assets, form, login, pages, reference, vary
from api.dashboard.render import problem_page
from api.problems import Problem


def install(app: FastAPI) -> None:
    """Adds the pages, their assets, and the form that errors take for people."""
    for module in (login, pages, form, vary, advisor, actions, reference):
        app.include_router(module.router, include_in_schema=False)
    app.mount(f"/assets/{assets.digest()}", assets.Assets(), name="assets")

    def error_page(request: Request, document: Problem) -> Response:
        return problem_page(request, document)

    app.state.error_page = error_page


__all__ = ["install"]
