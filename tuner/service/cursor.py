"""Cursors of pages: the sorted values of the last row, opaque to whoever passes them on."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tuner.errors import InvalidInput


def write(values: Sequence[Any]) -> str:
    """The cursor after a row with these values in its sorted columns."""
    plain = [{"t": v.isoformat()} if isinstance(v, datetime) else v for v in values]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")


def read(cursor: str | None, kinds: Sequence[tuple[type, ...]]) -> list[Any] | None:
    """The values that :func:`write` was given.

    Raises:
        InvalidInput: It is no cursor of a list sorted like this one.
    """
    if cursor is None:
        return None
    wrong = InvalidInput("cursor", "is not one that this list gave out")
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        plain = json.loads(base64.urlsafe_b64decode(padded.encode()))
        if not isinstance(plain, list) or len(plain) != len(kinds):
            raise wrong
        json.dumps(plain, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        values = [_time(v["t"]) if isinstance(v, dict) else v for v in plain]
    except (ValueError, KeyError, TypeError, OverflowError, binascii.Error) as error:
        raise wrong from error
    for value, kind in zip(values, kinds, strict=True):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise wrong
        if isinstance(value, int) and abs(value) >= 2**63:
            raise wrong
        if isinstance(value, str) and "\0" in value:
            raise wrong
    return values


def _time(text: str) -> datetime:
    """A moment that there is in UTC, too, as databases ask for."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("without a zone")
    return found.astimezone(UTC)
