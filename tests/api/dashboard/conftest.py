"""A browser for each file, and a study that a worker trained, with all that it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.api.conftest import Server
from tests.api.dashboard.browsers import chromium
from tests.api.loops import submitted
from tests.api.workers import work
from tuner import service
from tuner.service import StudyView


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one file: as long as it is there, no other event loop can run in its thread."""
    with chromium() as launched:
        yield launched


SPACE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "batch_size": {"type": "categorical", "choices": [16, 32, 64]},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True},
    "schedule": {"type": "categorical", "choices": ["constant", "cosine"]},
}


@pytest.fixture
def trained_at(spec: dict[str, Any]) -> Callable[..., StudyView]:
    """Submits a study to a server, lets a worker train up to ``trials`` of it, and shows it."""

    def make(server: Server, trials: int | None = None, **changes: Any) -> StudyView:
        study = submitted(server.context, {**spec, "space": SPACE, **changes})
        work(server.context, study.id, trials)
        return service.show_study(server.context, study.id)

    return make


@pytest.fixture
def trained(server: Server, trained_at: Callable[..., StudyView]) -> Callable[..., StudyView]:
    """The same on the test's own server."""
    return partial(trained_at, server)
