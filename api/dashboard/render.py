"""From a page's dataclass to HTML: Jinja escapes everything, there is no filter that would not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.dashboard import assets
from api.dashboard.formats import FILTERS
from api.dashboard.views import ProblemPage, Shown, Who
from api.problems import Problem
from api.security import ANYBODY, COOKIE, Principal, authenticate, principal, require
from tuner.errors import InvalidInput, TunerError

environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters.update(FILTERS)
# A search space is shown in the order in which it was written.
environment.policies["json.dumps_kwargs"] = {"sort_keys": False}


def root_of(request: Request) -> str:
    """The path prefix under which the browser sees this application, without a slash at its end."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def render(request: Request, template: str, page: Shown, status: int = 200) -> HTMLResponse:
    """One page as HTML."""
    return HTMLResponse(_html(request, template, page), status)


def render_pieces(
    request: Request, page: Shown, templates: Mapping[str, str], wanted: str
) -> HTMLResponse:
    """Pieces of a page as HTML; see :func:`pieces_of`."""
    return HTMLResponse(pieces_of(request, page, templates, wanted))


def pieces_of(request: Request, page: Shown, templates: Mapping[str, str], wanted: str) -> str:
    """Pieces of a page, each in an element that carries its name as the whole page does.

    Args:
        request: The request.
        page: What the whole page would show.
        templates: The page's pieces, by name.
        wanted: Names with commas between.

    Raises:
        InvalidInput: The page has no such piece.
    """
    parts = []
    for name in dict.fromkeys(wanted.split(",")):
        if name not in templates:
            raise InvalidInput("fragment", f"{name!r} is none of {', '.join(templates)}")
        parts.append(f'<div data-live="{name}">{_html(request, templates[name], page)}</div>')
    return "\n".join(parts)


def _html(request: Request, template: str, page: Shown) -> str:
    root = root_of(request)
    return environment.get_template(template).render(
        page=page,
        root=root,
        now=datetime.now(UTC),
        asset=lambda name: f"{root}/assets/{assets.digest()}/{name}",
        imported=assets.imported,
    )


def problem_page(request: Request, document: Problem) -> Response:
    """An error for a person: the login form where one is missing, else what went wrong."""
    if document.code == "unauthorized":
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        # What was to be sent is not sent by a login; it leads to the page with the form.
        asked = here if request.method == "GET" else _came_from(request)
        asked = asked.removeprefix(root_of(request)) or "/"
        return RedirectResponse(f"{root_of(request)}/login?next={quote(asked, safe='')}", 303)
    who = _visitor(request, document.status)
    page = ProblemPage(document.title, "", who, document, logged_in(request))
    return render(request, "problem.html", page, document.status)


def _visitor(request: Request, status: int) -> Who | None:
    """Who met an error, also where no route asked who it is.

    The database is not asked after a fault of the server's, which may be its own.
    """
    found: Principal | None = getattr(request.state, "principal", None)
    if found is None and not request.app.state.auth:
        found = ANYBODY
    token = request.cookies.get(COOKIE)
    if found is None and token and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        with suppress(TunerError):
            found = authenticate(request, token)
    return None if found is None else Who(found.name, found.scopes, logged_in(request))


def back(request: Request, fallback: str) -> RedirectResponse:
    """To the page that a form was sent from, if it is one of ours.

    Not to one that has this form's own path: it asked whether to send it.
    """
    path = _came_from(request)
    if not path or path.partition("?")[0] == request.url.path:
        path = root_of(request) + fallback
    return RedirectResponse(path if path.startswith("/") else "/", 303)


def _came_from(request: Request) -> str:
    """The path of the page that a form was sent from; empty where it is none of ours."""
    try:
        came = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return ""
    ours = came.netloc == request.headers.get("host") and came.path.startswith(root_of(request))
    return came.path + (f"?{came.query}" if came.query else "") if ours else ""


def viewer(
    request: Request,
    found: Annotated[Principal, Depends(principal)],
    _may: Annotated[Principal, Depends(require("read"))],
) -> Who:
    """Who looks at a page."""
    return Who(found.name, found.scopes, logged_in(request))


def logged_in(request: Request) -> bool:
    """Whether there is a login to end."""
    return COOKIE in request.cookies and bool(request.app.state.auth)


Viewer = Annotated[Who, Depends(viewer)]
