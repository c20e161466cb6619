"""Access tokens: made, shown once, checked on every request, revoked.

A token's secret is 256 random bits, so a plain SHA-256 keeps it: there is nothing to guess that a
slow hash would protect, and it is checked on every request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from tuner.errors import Conflict, InvalidInput, NotFound, Unauthorized, Unavailable, UnknownName
from tuner.service.names import check_name
from tuner.storage import events, tokens
from tuner.storage.models import Token

if TYPE_CHECKING:
    from tuner.service.context import Context

SCOPES = ("read", "submit", "work", "admin")
"""Looks; changes studies and trials; trains; everything."""
PREFIX = "tuner_"
"""So that people, and scanners of published code, see what a secret is."""
TOUCH_EVERY = timedelta(minutes=1)
KNOWN = timedelta(seconds=1)
"""So long a good token is not looked up again, and one that another process revokes works on."""
MOST_KNOWN = 1_000


@dataclass(frozen=True)
class TokenView:
    """A token as it may be shown: all but its secret."""

    id: int
    name: str
    scopes: tuple[str, ...]
    active: bool
    """Neither revoked nor expired."""
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""


@dataclass(frozen=True)
class CreatedToken(TokenView):
    """A token just made, with the secret that is never shown again."""

    secret: str


def create_token(
    ctx: Context,
    name: str,
    scopes: Collection[str],
    *,
    expires_at: datetime | None = None,
    actor: str | None = None,
    replace: bool = False,
) -> CreatedToken:
    """Makes a token.

    Args:
        ctx: The service's context.
        name: Who uses it: the actor in the audit trail. Free again once its token is not active.
        scopes: Some of ``SCOPES``; ``submit`` includes ``read``, ``admin`` all others.
        expires_at: When it stops working; None: never.
        actor: Who asked.
        replace: Take the name from an active token, which stops working.

    Raises:
        InvalidInput: An empty or overlong name, no or an unknown scope, a time that has passed.
        Conflict: An active token has this name.
    """
    now = ctx.now()
    _check(name, scopes, expires_at, now)
    secret = PREFIX + secrets.token_urlsafe(32)
    fresh = {
        "hash": _digest(secret),
        "scopes": [scope for scope in SCOPES if scope in scopes],
        "created_at": now,
        "expires_at": expires_at,
        "revoked_at": None,
        "last_used_at": None,
    }
    with ctx.db.write() as session:
        token = tokens.by_name(session, name)
        if token is None:
            token = Token(name=name, **fresh)
            tokens.add(session, token)
        elif replace or not _active(token, now):
            for column, value in fresh.items():
                setattr(token, column, value)
        else:
            raise Conflict(f"there is an active token named {name!r}", name=name)
        made = CreatedToken(**vars(_view(token, now)), secret=secret)
        _note(session, "token.created", token, actor, now)
    ctx.tokens.clear()
    return made


def list_tokens(ctx: Context) -> list[TokenView]:
    """All tokens, the oldest first, revoked and expired ones too."""
    with ctx.db.session() as session:
        return [_view(token, ctx.now()) for token in tokens.every(session)]


def revoke_token(ctx: Context, token: int | str, *, actor: str | None = None) -> TokenView:
    """Ends a token, by its id or its name; ending it twice changes nothing.

    Raises:
        NotFound: There is no such token.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        if isinstance(token, int):
            found = tokens.get(session, token)
        else:
            named = tokens.by_name(session, token)
            if named is None:
                raise NotFound("token", token)
            found = named
        if found.revoked_at is None:
            found.revoked_at = now
            _note(session, "token.revoked", found, actor, now)
        view = _view(found, now)
    ctx.tokens.clear()
    return view


def known(ctx: Context, secret: str) -> TokenView | None:
    """Whose secret this is, if that was looked up a moment ago; asks no database."""
    view, at = ctx.tokens.get(_digest(secret), (None, None))
    now = ctx.now()
    if view is None or at is None or abs(now - at) >= KNOWN:
        return None
    return view if view.expires_at is None or now < view.expires_at else None


def authenticate(ctx: Context, secret: str) -> TokenView:
    """Whose secret this is. Its use is noted, at most once a minute.

    A token that is revoked here is refused from then on, one that another process revokes
    :data:`KNOWN` later at the latest.

    Raises:
        Unauthorized: It is wrong, expired or revoked; the message does not say which.
    """
    view = known(ctx, secret)
    if view is not None:
        return view
    now = ctx.now()
    digest = _digest(secret)
    with ctx.db.session() as session:
        token = tokens.by_hash(session, digest)
        # The index has compared hashes, not secrets: its timing tells nothing that can be used.
        good = token is not None and hmac.compare_digest(token.hash, digest)
        if token is None or not good or not _active(token, now):
            raise Unauthorized("the token is wrong, expired or revoked")
        view = _view(token, now)
    since = now - TOUCH_EVERY
    if view.last_used_at is None or view.last_used_at <= since:
        # A request that only reads must not fail because the database is busy with a write.
        with suppress(Unavailable), ctx.db.write() as session:
            tokens.touch(session, view.id, now, since)
    if len(ctx.tokens) >= MOST_KNOWN:
        ctx.tokens.clear()
    ctx.tokens[digest] = (view, now)
    return view


def _check(name: str, scopes: Collection[str], expires_at: datetime | None, now: datetime) -> None:
    check_name("name", name)
    if not scopes:
        raise InvalidInput("scopes", f"expected some of {', '.join(SCOPES)}")
    for i, scope in enumerate(scopes):
        if scope not in SCOPES:
            raise UnknownName("scope", scope, list(SCOPES), f"scopes.{i}")
    if expires_at is not None and expires_at.tzinfo is None:
        raise InvalidInput("expires_at", "expected a time with its zone")
    if expires_at is not None and expires_at <= now:
        raise InvalidInput("expires_at", "expected a time to come")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _active(token: Token, now: datetime) -> bool:
    return token.revoked_at is None and (token.expires_at is None or now < token.expires_at)


def _view(token: Token, now: datetime) -> TokenView:
    return TokenView(
        id=token.id,
        name=token.name,
        scopes=tuple(token.scopes),
        active=_active(token, now),
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
        last_used_at=token.last_used_at,
    )


def _note(session: Session, kind: str, token: Token, actor: str | None, now: datetime) -> None:
    data = {"token": token.id, "name": token.name, "scopes": token.scopes}
    events.add(session, [events.NewEvent(kind, data=data)], actor, now)
