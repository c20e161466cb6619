"""What wraps every request: a limit on bodies, security headers, a guard of the host name, timing.

Plain ASGI, because Starlette's function middleware would hold back streams.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address

from prometheus_client import Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from tuner.errors import Forbidden, TooLarge

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class SecurityHeaders:
    """Sets the headers that keep a browser from doing what the pages never ask of it."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self.app = app
        self.headers = dict(HEADERS)
        if https:
            self.headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request with the headers added where the route set none of its own."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class Mistakes:
    """Answers for a bug, inside of what adds headers and measures.

    Starlette would do so outside of all middleware: without the headers, and unmeasured.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, and makes a problem of what it raises."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception as error:
            if started:  # too late for another answer: the connection breaks, as it should
                raise
            await problems.on_bug(Request(scope), error)(scope, receive, send)


class Forwarded:
    """Takes from the proxy in front who asks, and over what.

    Each proxy adds the address it was asked from at the end. The last one is thus our own proxy's
    word; what stands before it is whatever the client sent, and would let it pass for many others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on as if it had come without the proxy."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            address = _last(headers, "x-forwarded-for")
            with suppress(ValueError):
                scope = {**scope, "client": (str(ip_address(address)), 0)}
            if _last(headers, "x-forwarded-proto") == "https":
                scope = {**scope, "scheme": "https"}
        await self.app(scope, receive, send)


def _last(headers: Headers, name: str) -> str:
    """The last value of a header that lists several, or that came several times."""
    return ",".join(headers.getlist(name)).rpartition(",")[2].strip()


class BodyLimit:
    """Refuses bodies above a limit, whether they say their length or not.

    Args:
        app: What is behind it.
        limit_bytes: The largest body of any request.
        others: Limits of their own for some paths, below the one that a proxy shows the server at.
    """

    def __init__(self, app: ASGIApp, *, limit_bytes: int, others: Mapping[str, int]) -> None:
        self.app = app
        self.limit_bytes = limit_bytes
        self.others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, and stops reading once it is too large."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        limit = self.others.get(path, self.limit_bytes)
        refusal = TooLarge(f"the body is larger than {limit} bytes", limit_bytes=limit)
        stated = Headers(scope=scope).get("content-length", "")
        if stated.isdecimal() and int(stated) > limit:
            await problems.response(refusal)(scope, receive, send)
            return
        seen = 0
        started = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise refusal
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal started
            # FastAPI turns whatever goes wrong while it reads a body into a 400 of its own.
            if started or seen <= limit:
                started = True
                await send(message)

        await self.app(scope, counted, unless_refused)
        if not started:
            await problems.response(refusal)(scope, receive, send)


class HostGuard:
    """Answers only under known host names.

    An application without auth trusts whoever reaches its loopback port, and a browser on the same
    machine reaches it for any page whose name its owner points at 127.0.0.1 (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str]) -> None:
        self.app = app
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request whose ``Host`` is unknown."""
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in self.hosts:
                refusal = Forbidden(
                    "without auth the server answers only under its loopback names",
                    hosts=sorted(self.hosts),
                )
                await problems.response(refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Timing:
    """Observes how long each route takes to begin its answer, by route template and status."""

    def __init__(self, app: ASGIApp, *, histogram: Histogram) -> None:
        self.app = app
        self.histogram = histogram

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with a stopwatch."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = template_of(scope)
                self.histogram.labels(scope["method"], route, str(message["status"])).observe(
                    time.perf_counter() - started
                )
            await send(message)

        await self.app(scope, receive, timed)


def template_of(scope: Scope) -> str:
    """The path as it was declared, never as it was asked for: a label a trial would fill memory.

    A route knows it without the prefix of the router that it was included in, which has no parts
    that vary, so those come from the request.
    """
    declared: str | None = getattr(scope.get("route"), "path", None)
    if declared is None:
        return "unmatched"
    asked: str = scope["path"].removeprefix(scope.get("root_path", ""))
    missing = asked.count("/") - declared.count("/")
    return "/".join(asked.split("/")[: missing + 1]) + declared if missing > 0 else declared


class PathPrefix:
    """Tells the application its path behind a proxy, whether or not the proxy strips it."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on as if it had come with the prefix."""
        if scope["type"] == "http":
            path = scope["path"]
            inside = path == self.prefix or path.startswith(self.prefix + "/")
            scope = {
                **scope,
                "root_path": self.prefix,
                "path": path if inside else self.prefix + path,
            }
        await self.app(scope, receive, send)
