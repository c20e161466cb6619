"""Who asks, and whether they may: bearer tokens, the dashboard's cookie, same-origin, rate limit.

A token has scopes. ``read`` looks, ``submit`` looks too and changes studies and trials, ``work``
trains, ``admin`` includes them all. The dashboard's cookie holds the token itself, HttpOnly, so
that revoking it ends the session on every replica, within a second; a stream that is open already
ends within a few, see :func:`still_good`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from api.text import SaidOnce
from tuner.errors import Forbidden, TooManyRequests, Unauthorized, Unavailable
from tuner.service import Context, tokens

logger = logging.getLogger(__name__)

Scope = Literal["read", "submit", "work", "admin"]

COVERED_BY: Mapping[Scope, frozenset[str]] = {
    "read": frozenset({"read", "submit", "admin"}),
    "submit": frozenset({"submit", "admin"}),
    "work": frozenset({"work", "admin"}),
    "admin": frozenset({"admin"}),
}
"""Of each scope: any of these will do."""

COOKIE = "tuner_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

bearer = HTTPBearer(auto_error=False, description="A token made with `tuner token create`.")
cookie = APIKeyCookie(
    name=COOKIE, auto_error=False, description="Set by the dashboard's login form."
)


@dataclass(frozen=True)
class Principal:
    """Who asks: the token's name (``actor`` in the audit trail) and what it may do."""

    name: str
    scopes: frozenset[str]

    @classmethod
    def of(cls, token: tokens.TokenView) -> Principal:
        """Whoever shows this token."""
        return cls(token.name, frozenset(token.scopes))

    def may(self, scope: Scope) -> bool:
        """Whether this scope is covered."""
        return not self.scopes.isdisjoint(COVERED_BY[scope])


ANYBODY = Principal("anonymous", frozenset({"admin"}))
"""Who asks where the server runs without auth."""


class FailureLimit:
    """Counts wrong tokens by address over the last minute; bounded, in this process.

    An address that fails too often has to wait, except with a token that was good before: a worker
    with a typing error must not lock its neighbours out. Nor does a token that has expired or was
    revoked count, as pages that are open go on showing it: whoever guesses shows others.

    Args:
        most: Failures a minute before an address has to wait.
        now: A monotonic clock in seconds.
    """

    WINDOW_SECONDS = 60.0
    MOST_ADDRESSES = 4096

    def __init__(self, most: int = 20, now: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._now = now
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()

    @staticmethod
    def source(address: str) -> str:
        """Whose failures are counted together: of IPv6, whoever has one address has 2**64."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return address
        if isinstance(parsed, IPv6Address):
            if parsed.ipv4_mapped is not None:
                return str(parsed.ipv4_mapped)
            return str(IPv6Address(int(parsed) >> 64 << 64))
        return address

    def check(self, address: str, token: str) -> None:
        """Lets an attempt pass.

        Raises:
            TooManyRequests: The address failed too often; the error says how long to wait.
        """
        with self._lock:
            failures = self._recent(self.source(address))
            if len(failures) < self.most or _digest(token) in self._good:
                return
            wait = failures[0] + self.WINDOW_SECONDS - self._now()
        raise TooManyRequests(
            "too many wrong tokens from this address; wait a little",
            retry_after_seconds=max(1, round(wait)),
        )

    def failed(self, address: str, token: str) -> None:
        """Remembers a wrong token."""
        address = self.source(address)
        with self._lock:
            if _digest(token) in self._good:
                return
            failures = self._recent(address)
            failures.append(self._now())
            self._failures[address] = failures
            self._failures.move_to_end(address)
            while len(self._failures) > self.MOST_ADDRESSES:
                self._failures.popitem(last=False)

    def succeeded(self, token: str) -> None:
        """Remembers a good token, by its hash, also once it is good no more."""
        with self._lock:
            self._good[_digest(token)] = None
            self._good.move_to_end(_digest(token))
            while len(self._good) > self.MOST_ADDRESSES:
                self._good.popitem(last=False)

    def _recent(self, address: str) -> deque[float]:
        failures = self._failures.get(address, deque(maxlen=self.most))
        while failures and failures[0] <= self._now() - self.WINDOW_SECONDS:
            failures.popleft()
        return failures


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def check_origin(request: Request, *, browser: bool) -> None:
    """Refuses a change that another site makes a browser ask for.

    Args:
        request: The request.
        browser: Whether it surely comes from a browser (it carries our cookie); one that shows no
            sign of where it came from is then refused too.

    Raises:
        Forbidden: It comes from another origin.
    """
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        same = site == "same-origin"
    elif origin is not None:
        same = _host(origin) == request.headers.get("host", "").lower()
    else:
        same = not browser
    if not same:
        raise Forbidden("this change was asked for by a page of another site")


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def authenticate(request: Request, token: str) -> Principal:
    """Whose token this is.

    Raises:
        Unauthorized: Wrong, expired or revoked.
        TooManyRequests: The address tried too many wrong ones.
    """
    limit: FailureLimit = request.app.state.failures
    address = request.client.host if request.client else "unknown"
    limit.check(address, token)
    try:
        found = tokens.authenticate(request.app.state.context, token)
    except Unauthorized:
        limit.failed(address, token)
        raise
    limit.succeeded(token)
    return Principal.of(found)


# What needs no thread is a coroutine: FastAPI waits for a thread for each plain function.
async def shown(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None,
    session: Annotated[str | None, Depends(cookie)] = None,
) -> str | None:
    """The token that a request carries, if any."""
    return session if credentials is None else credentials.credentials


async def principal(
    request: Request,
    token: Annotated[str | None, Depends(shown)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None,
) -> Principal:
    """Who asks; raises ``Unauthorized`` where nobody is known.

    :class:`TokenFirst` has found out already, before anything of the body was read.
    """
    found: Principal | None = getattr(request.state, "principal", None)
    return found or await known(request, token, credentials)


async def known(
    request: Request, token: str | None, credentials: HTTPAuthorizationCredentials | None
) -> Principal:
    """Who shows this token, which came in that header or in a cookie."""
    if not request.app.state.auth:
        check_origin(request, browser=False)
        return ANYBODY
    if not token:
        raise Unauthorized("this needs a token: Authorization: Bearer ...")
    if credentials is None:
        check_origin(request, browser=True)
    lately = tokens.known(request.app.state.context, token)
    if lately is not None:
        return Principal.of(lately)
    return await run_in_threadpool(authenticate, request, token)


async def still_good(request: Request, token: str | None) -> bool:
    """Whether a token that was let in would be let in now, as what it opened lasts.

    While the database is away it is: nothing comes from there either.
    """
    context: Context = request.app.state.context
    if not request.app.state.auth or not token or tokens.known(context, token) is not None:
        return True
    try:
        await run_in_threadpool(tokens.authenticate, context, token)
    except Unauthorized:
        return False
    except Unavailable:
        logger.warning("a listener's token could not be looked up again")
    return True


@dataclass(frozen=True)
class Require:
    """A dependency: the one who asks, if one of the scopes covers it.

    Args:
        scopes: Any of them is enough.
    """

    scopes: tuple[Scope, ...]

    async def __call__(self, found: Annotated[Principal, Depends(principal)]) -> Principal:
        """Lets him pass.

        Raises:
            Forbidden: None of the scopes covers it.
        """
        if not any(found.may(scope) for scope in self.scopes):
            wanted = " or ".join(self.scopes)
            raise Forbidden(
                f"this needs a token with the scope {wanted}",
                scope=wanted,
                has=sorted(found.scopes),
            )
        return found


def require(*scopes: Scope) -> Require:
    """A dependency: the one who asks, if one of the scopes covers it."""
    return Require(scopes)


class TokenFirst(APIRoute):
    """A route that knows who asks before it reads anything of the body.

    FastAPI reads and parses a body before it looks at any dependency: whoever reached the port
    could keep the server busy with large ones.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own, behind the route's requirements."""
        handle = super().get_route_handler()
        required = [call for call in _calls(self.dependant) if isinstance(call, Require)]
        if not required:
            return handle

        async def handle_known(request: Request) -> Response:
            credentials = await bearer(request)
            token = await shown(credentials, await cookie(request))
            request.state.principal = await known(request, token, credentials)
            for check in required:
                await check(request.state.principal)
            return await handle(SaidOnce(request.scope, request.receive))

        return handle_known


def _calls(dependant: Dependant) -> Iterator[Callable[..., Any] | None]:
    """What is called for a route, its dependencies' dependencies included."""
    yield dependant.call
    for below in dependant.dependencies:
        yield from _calls(below)


async def context(request: Request) -> Context:
    """The service's context, which the application was made with."""
    found: Context = request.app.state.context
    return found


Ctx = Annotated[Context, Depends(context)]
Shown = Annotated[str | None, Depends(shown)]
Reader = Annotated[Principal, Depends(require("read"))]
Submitter = Annotated[Principal, Depends(require("submit"))]
Trainer = Annotated[Principal, Depends(require("work"))]
Admin = Annotated[Principal, Depends(require("admin"))]
