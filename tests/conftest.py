"""What all tests share."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from tuner import tasks
from tuner.cli.collecting import SELDOM

pytest_plugins = ["tests.databases"]


LONGEST = ("tests/tuner/worker/ray/test_pool.py", "tests/faults/")
"""What starts clusters, and takes minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the longest first, so that a run does not end with one process at work.

    xdist gives each process one stretch of the list, and lets those that are done steal from the
    ends of the others': so what is first stays with the first process, which starts each cluster
    once, while the others take the rest of its stretch.
    """

    def rank(item: pytest.Item) -> int:
        found = (n for n, path in enumerate(LONGEST) if item.nodeid.startswith(path))
        return next(found, len(LONGEST))

    items.sort(key=rank)


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
