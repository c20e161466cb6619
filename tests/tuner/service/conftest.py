"""A service on each kind of database, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tuner.service.simulation import Clock
from tuner.service import Context


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ctx(database_url: str, clock: Clock) -> Iterator[Context]:
    opened = Context.open(database_url, now=clock)
    yield opened
    opened.close()
