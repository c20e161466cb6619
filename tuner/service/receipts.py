"""Requests that make something, and may be said again because the answer was lost.

Their sender names each request. What it makes is noted under that name in the same transaction, so
that the same request said again, at once or later, to this server or another one, makes no more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from tuner.errors import InvalidInput
from tuner.storage import receipts as stored

KEPT = timedelta(hours=1)
"""How long what a request made is remembered; clients give up after minutes."""
HEADER = "Idempotency-Key"


def name(what: str, who: object, key: str) -> str:
    """The name under which a request is kept: one sender's names mean nothing to another."""
    return hashlib.sha256("\0".join((what, str(who), key)).encode()).hexdigest()


def digest(said: Any) -> str:
    """Of a request, as JSON, so that another one of the same name is noticed."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def same(made: Mapping[str, Any], said: str) -> None:
    """Refuses a request under the name of another one.

    Args:
        made: What is kept under the name.
        said: The digest of the request.

    Raises:
        InvalidInput: The name was given to another request before.
    """
    if made.get("said", said) != said:  # an earlier version kept none of some requests
        raise InvalidInput(HEADER, "names another request that was made before")


@dataclass
class Receipt:
    """What a request has made, or is about to make.

    Attributes:
        session: The transaction of the request.
        key: The name under which it is kept; None: the request has none.
        said: A digest of the request.
        fresh: Whether this is the first request of its name: make it, and :meth:`fill` this.
        made: What was made, now or before.
    """

    session: Session
    key: str | None
    said: str = ""
    fresh: bool = True
    made: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        session: Session,
        now: datetime,
        what: str,
        who: object,
        key: str | None,
        said: Any = None,
    ) -> Receipt:
        """The receipt of a request; waits for the same request while it is being answered.

        Args:
            session: A transaction that writes.
            now: The time.
            what: The kind of request.
            who: Its sender.
            key: The sender's name for it; None: each time it is said it is another one.
            said: The request, as JSON; see :func:`digest`.

        Raises:
            InvalidInput: The name was given to another request before.
        """
        if key is None:
            return cls(session, None)
        kept_as = name(what, who, key)
        before = stored.keep(session.connection(), kept_as, {}, now)
        if before is None:
            return cls(session, kept_as, digest(said))
        same(before, digest(said))
        return cls(session, kept_as, digest(said), False, before)

    def fill(self, made: Mapping[str, Any]) -> None:
        """Notes what the request has made."""
        self.made = dict(made)
        if self.key is not None:
            stored.fill(self.session, self.key, {**made, "said": self.said})
