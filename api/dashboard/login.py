"""Log in with a token, log out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from api.dashboard.render import render, root_of
from api.dashboard.views import LoginPage
from api.problems import status_of
from api.security import COOKIE, authenticate, check_origin
from tuner.errors import Forbidden, TooManyRequests, Unauthorized

router = APIRouter()

SESSION_SECONDS = 30 * 86_400


def local(path: str) -> str:
    """``path`` if it stays on this server, else the first page.

    Two slashes, or one and a backslash, lead to another host in a browser.
    """
    safe = path.startswith("/") and not path.startswith("//") and "\\" not in path
    return path if safe and path.isprintable() and len(path) < 2000 else "/"


@router.get("/login")
def show_login(request: Request, next: str = "/") -> Response:
    """The form; who needs none goes on."""
    if not request.app.state.auth:
        return RedirectResponse(root_of(request) + "/", 303)
    return render(request, "login.html", LoginPage("Log in", "", None, "", local(next)))


@router.post("/login")
def log_in(
    request: Request,
    token: Annotated[str, Form(max_length=512)],
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Checks the token and keeps it in a cookie that scripts cannot read."""
    # Also here: another site must not log a browser into an account of its own.
    check_origin(request, browser=True)
    try:
        if not authenticate(request, token.strip()).may("read"):
            raise Forbidden("this token may not look: the dashboard needs one with the scope read")
    except (Unauthorized, TooManyRequests, Forbidden) as error:
        status = status_of(type(error))
        page = LoginPage("Log in", "", None, error.message, local(next))
        return render(request, "login.html", page, status)
    response = RedirectResponse(root_of(request) + local(next), 303)
    response.set_cookie(
        COOKIE,
        token.strip(),
        max_age=SESSION_SECONDS,
        path=root_of(request) or "/",
        secure=request.app.state.secure or request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return response


@router.post("/logout")
def log_out(request: Request) -> Response:
    """Forgets the token in this browser; it stays good elsewhere until it is revoked."""
    check_origin(request, browser=True)
    response = RedirectResponse(root_of(request) + "/login", 303)
    response.delete_cookie(COOKIE, path=root_of(request) or "/")
    return response
