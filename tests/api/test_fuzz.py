"""Requests drawn from the OpenAPI document: whatever is sent, no route answers with a 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error

from api.app import create_app
from tests.api.conftest import Server, running
from tests.api.loops import submitted, train
from tuner.settings import Settings

SPEC = {
    "task": {"name": "digits"},
    "space": {
        "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "schedule": {"type": "categorical", "choices": ["cosine", "linear"]},
    },
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
    "budget": {"trials": 5, "epochs": 3},
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a study that is over and one that runs, so that ids lead somewhere."""
    with running(tmp_path_factory.mktemp("fuzz"), auth=False) as server:
        done = submitted(server.context, {**SPEC, "name": "done"})
        train(server.context, done.id)
        begun = submitted(server.context, {**SPEC, "name": "begun"})
        train(server.context, begun.id, 2)
        yield server


def document() -> dict[str, Any]:
    """The OpenAPI document; making it needs no database."""
    return create_app(None, Settings.read(), auth=False).openapi()  # type: ignore[arg-type]  # it asks nothing


schema = schemathesis.openapi.from_dict(document())


@schema.exclude(path_regex="/events$").parametrize()
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_breaks_a_route(case: schemathesis.Case, busy: Server) -> None:
    case.call_and_validate(base_url=busy.url, checks=[not_a_server_error], timeout=30)
