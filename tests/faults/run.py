"""Plays scenes and says what came of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.databases import _sqlite_template
from tests.faults.cluster import Cluster
from tests.faults.scenes import Scene
from tests.faults.stage import Outcome, Stage
from tests.leftovers import prefix


def played(scene: Scene, rounds: int, seed: int, cluster: Cluster | None) -> Outcome:
    """One scene on a database of its own."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"{prefix('faults')}-") as name:
        folder = Path(name)
        with _database(scene.database, folder, cluster) as url, Stage(folder, url, seed) as stage:
            injected = scene.play(stage, rounds, cluster)
            found = stage.audit()
    return Outcome(scene.name, scene.database, injected, found, time.monotonic() - start)


@contextmanager
def _database(kind: str, folder: Path, cluster: Cluster | None) -> Iterator[str]:
    if kind == "sqlite":
        file = folder / "tuner.sqlite"
        file.write_bytes(_sqlite_template())
        yield f"sqlite:///{file}"
        return
    assert cluster is not None
    with cluster.database() as url:
        yield url


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """The outcomes as Markdown."""
    lines = [
        "| fault | database | times injected | trials | lost | duplicated "
        "| points acknowledged | missing | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        a = o.audit
        lines.append(
            f"| {o.fault} | {o.database} | {o.injected} | {a.trials} | {len(a.lost)} "
            f"| {len(a.duplicated)} | {a.promises} | {len(a.missing)} | {o.seconds:.0f} |"
        )
    return lines
