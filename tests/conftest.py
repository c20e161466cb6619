"""What all tests share."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from tuner import tasks
from tuner.cli.collecting import SELDOM

pytest_plugins = ["tests.databases"]


def pytest_collection_finish() -> None:
    """Spares what is loaded by now from the search for garbage: a fifth of the tests' time."""
    gc.freeze()
    gc.set_threshold(*SELDOM)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Commands set logging up for their process; here it would write to a test that is over."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _tasks_as_they_were() -> Iterator[None]:
    """A task that a test brings must not be there for the next one."""
    known = {name: tasks.get(name) for name in tasks.registry.names()}
    yield
    tasks.registry._entries = known
