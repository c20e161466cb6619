"""Every fault a few times; ``make faults`` plays them many times and prints the table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import _server
from tests.faults.cluster import Cluster
from tests.faults.run import played
from tests.faults.scenes import SCENES, Scene


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    _server()  # skips, or fails in CI, where PostgreSQL does not start
    made = Cluster()
    yield made
    made.close()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.name} ({scene.database})")
def test_a_fault_loses_nothing_and_doubles_nothing(
    scene: Scene, request: pytest.FixtureRequest
) -> None:
    mine = request.getfixturevalue("cluster") if scene.database == "postgresql" else None
    outcome = played(scene, scene.quick, seed=0, cluster=mine)
    assert outcome.injected >= scene.quick
    assert outcome.audit.trials > 0
    assert outcome.audit.promises > 0
    assert outcome.audit.lost == []
    assert outcome.audit.duplicated == []
    assert outcome.audit.missing == []
