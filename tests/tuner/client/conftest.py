from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tuner.cli.serving import serving
from tuner.client import Client
from tuner.settings import Settings


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    settings = Settings.read(
        home=home,
        database_url=f"sqlite:///{home}/tuner.sqlite",
        port=0,
        workers=0,
        # It ends no lease before it has listened for as long as one lives.
        lease_seconds=8.0,
        heartbeat_seconds=2.0,
    )
    with serving(settings, auth=False, stop=threading.Event()) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as made:
        yield made


@pytest.fixture
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {
        "name": request.node.name,
        "objective": {"metric": "loss", "direction": "minimize"},
        "space": {
            "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
            "depth": {"type": "int", "low": 1, "high": 4},
        },
        "sampler": {"name": "random", "seed": 0},
        "pruner": {"name": "none"},
        "budget": {"trials": 6, "epochs": 3},
    }
