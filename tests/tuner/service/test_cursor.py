"""A cursor is what a list gave out; whatever else is sent in its place is refused, not tried."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner import service
from tuner.errors import InvalidInput
from tuner.service import Context, cursor


def forged(plain: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    st.integers(-(2**63) + 1, 2**63 - 1),
)
def test_what_was_written_is_read(time: datetime, text: str, number: int) -> None:
    written = cursor.write([time, text, number])
    assert cursor.read(written, [(datetime,), (str,), (int,)]) == [time, text, number]


def test_a_time_of_another_zone_is_one_of_utc() -> None:
    there = datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=14)))
    (read,) = cursor.read(cursor.write([there]), [(datetime,)]) or []
    assert (read, read.tzinfo) == (there, UTC)


TAMPERED = [
    ("created_at", [{"t": "0001-01-01T00:00:00+14:00"}, 3]),
    ("created_at", [{"t": "9999-12-31T23:59:59-14:00"}, 3]),
    ("created_at", [{"t": "2026-01-01T00:00:00"}, 3]),
    ("created_at", [{"t": 1}, 3]),
    ("created_at", [{}, 3]),
    ("created_at", ["2026-01-01T00:00:00+00:00", 3]),
    ("name", ["\ud800", 1]),
    ("name", ["a\0b", 1]),
    ("name", ["a", 2**63]),
    ("name", ["a", True]),
    ("name", ["a"]),
]


@pytest.mark.parametrize(("sort", "plain"), TAMPERED, ids=ascii)
def test_what_no_list_gave_out_is_refused(ctx: Context, sort: str, plain: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        service.list_studies(ctx, sort=sort, cursor=forged(plain))
    assert caught.value.field == "cursor"


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00"])
def test_the_first_moment_and_the_last_are_moments(ctx: Context, time: str) -> None:
    assert service.list_studies(ctx, sort="created_at", cursor=forged([{"t": time}, 3])).items == []
