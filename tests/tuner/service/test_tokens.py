"""Tokens: made, checked, expired, revoked, on both databases."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from tuner.errors import Conflict, InvalidInput, NotFound, Unauthorized
from tuner.service import tokens
from tuner.service.context import Context
from tuner.storage import Database
from tuner.storage.models import Event, Token

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ctx(database: Database, clock: Clock) -> Context:
    return Context(database, clock)


def test_a_token_is_known_by_its_secret_alone(ctx: Context) -> None:
    made = tokens.create_token(ctx, "laptop", ["submit", "read"], actor="root")
    assert made.secret.startswith("tuner_")
    assert len(made.secret) > 40
    found = tokens.authenticate(ctx, made.secret)
    assert (found.name, found.scopes) == ("laptop", ("read", "submit"))
    for wrong in ("", "laptop", made.secret[:-1], made.secret.upper(), made.secret + "x"):
        with pytest.raises(Unauthorized):
            tokens.authenticate(ctx, wrong)


def test_the_secret_is_not_stored(ctx: Context) -> None:
    made = tokens.create_token(ctx, "laptop", ["read"])
    with ctx.db.session() as session:
        stored = session.scalars(select(Token)).one()
        trail = session.scalars(select(Event)).all()
        assert stored.hash == hashlib.sha256(made.secret.encode()).hexdigest()
        shown = [str(vars(row)) for row in (stored, *trail)]
    assert all(made.secret not in text for text in shown)
    assert all(made.secret not in repr(view) for view in tokens.list_tokens(ctx))


def test_it_expires(ctx: Context, clock: Clock) -> None:
    made = tokens.create_token(ctx, "laptop", ["read"], expires_at=NOW + timedelta(hours=1))
    clock.time = NOW + timedelta(minutes=59)
    tokens.authenticate(ctx, made.secret)
    clock.time = NOW + timedelta(hours=1)
    with pytest.raises(Unauthorized):
        tokens.authenticate(ctx, made.secret)
    assert [view.active for view in tokens.list_tokens(ctx)] == [False]


def test_a_good_token_is_looked_up_once_a_second(ctx: Context, clock: Clock) -> None:
    made = tokens.create_token(ctx, "laptop", ["read"], expires_at=NOW + 1.5 * tokens.KNOWN)
    assert tokens.known(ctx, made.secret) is None
    tokens.authenticate(ctx, made.secret)
    found = tokens.known(ctx, made.secret)
    assert found is not None
    assert found.name == "laptop"
    assert tokens.known(ctx, made.secret + "x") is None
    clock.time = NOW + tokens.KNOWN
    assert tokens.known(ctx, made.secret) is None
    tokens.authenticate(ctx, made.secret)
    assert tokens.known(ctx, made.secret) is not None
    clock.time = NOW + 1.5 * tokens.KNOWN  # known for another half a second, and expired
    assert tokens.known(ctx, made.secret) is None
    with pytest.raises(Unauthorized):
        tokens.authenticate(ctx, made.secret)


def test_one_that_another_process_revokes_is_refused_a_second_later(
    ctx: Context, clock: Clock
) -> None:
    made = tokens.create_token(ctx, "laptop", ["read"])
    tokens.authenticate(ctx, made.secret)
    tokens.revoke_token(Context(ctx.db, clock), "laptop")
    clock.time = NOW + tokens.KNOWN
    with pytest.raises(Unauthorized):
        tokens.authenticate(ctx, made.secret)


@pytest.mark.parametrize("by", ["id", "name"])
def test_it_can_be_revoked(ctx: Context, clock: Clock, by: str) -> None:
    made = tokens.create_token(ctx, "laptop", ["read"])
    tokens.revoke_token(ctx, made.id if by == "id" else "laptop", actor="root")
    with pytest.raises(Unauthorized):
        tokens.authenticate(ctx, made.secret)
    first = tokens.list_tokens(ctx)[0].revoked_at
    clock.time += timedelta(hours=1)
    assert tokens.revoke_token(ctx, made.id).revoked_at == first == NOW


@pytest.mark.parametrize("token", [99, "nobody"])
def test_what_is_not_there_cannot_be_revoked(ctx: Context, token: int | str) -> None:
    with pytest.raises(NotFound):
        tokens.revoke_token(ctx, token)


def test_a_name_is_one_active_token(ctx: Context) -> None:
    first = tokens.create_token(ctx, "laptop", ["read"])
    with pytest.raises(Conflict):
        tokens.create_token(ctx, "laptop", ["read"])
    second = tokens.create_token(ctx, "laptop", ["work"], replace=True)
    with pytest.raises(Unauthorized):
        tokens.authenticate(ctx, first.secret)
    assert tokens.authenticate(ctx, second.secret).scopes == ("work",)
    tokens.revoke_token(ctx, "laptop")
    third = tokens.create_token(ctx, "laptop", ["read"])
    assert tokens.authenticate(ctx, third.secret).active
    assert len(tokens.list_tokens(ctx)) == 1


def test_its_use_is_noted_once_a_minute(ctx: Context, clock: Clock) -> None:
    made = tokens.create_token(ctx, "laptop", ["read"])
    seen = []
    for seconds in (0, 30, 59, 60, 90):
        clock.time = NOW + timedelta(seconds=seconds)
        tokens.authenticate(ctx, made.secret)
        seen.append((tokens.list_tokens(ctx)[0].last_used_at or NOW) - NOW)
    assert [int(lapse.total_seconds()) for lapse in seen] == [0, 0, 0, 60, 60]


def test_changes_are_in_the_audit_trail(ctx: Context) -> None:
    made = tokens.create_token(ctx, "laptop", ["read"], actor="root")
    tokens.revoke_token(ctx, made.id, actor="admin")
    with ctx.db.session() as session:
        trail = [
            (event.kind, event.actor, event.data["name"])
            for event in session.scalars(select(Event).order_by(Event.id))
        ]
    assert trail == [("token.created", "root", "laptop"), ("token.revoked", "admin", "laptop")]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "nul\x00"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["read", "root"]}, "scopes.1"),
        ({"expires_at": NOW}, "expires_at"),
        ({"expires_at": (NOW + timedelta(days=1)).replace(tzinfo=None)}, "expires_at"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_name(
    ctx: Context, given: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        tokens.create_token(ctx, **({"name": "laptop", "scopes": ["read"]} | given))
    assert caught.value.field == field
    assert tokens.list_tokens(ctx) == []
