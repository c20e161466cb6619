"""Real Ray clusters for tests: nodes that are processes of this machine, on loopback alone."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.leftovers import prefix

STORE_BYTES = 80 * 2**20
"""Ray's shared memory of a node; nothing of ours goes through it."""

ENVIRONMENT = {
    # What Ray uses where clusters across machines are not supported: every address is loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    # Half a minute by default until a node that is gone counts as such. One that is gone refuses at
    # once, while one of a busy machine answers late: only the first is to count soon.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "20000",
    "RAY_health_check_failure_threshold": "6",
}


class Cluster:
    """A cluster whose head trains nothing."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster  # noqa: PLC0415  (reads the environment)

        self._cluster = RayCluster()
        self._cluster.add_node(
            num_cpus=0,
            object_store_memory=STORE_BYTES,
            # What no test looks at: pages, the actors' logs at their driver, nodes in a cloud.
            include_dashboard=False,
            include_log_monitor=False,
            no_monitor=True,
        )
        self.address: str = self._cluster.address

    def add(self, **resources: int) -> Any:
        """Another node, which says that it has these resources."""
        return self._cluster.add_node(object_store_memory=STORE_BYTES, **resources)

    @contextmanager
    def another(self, **resources: int) -> Iterator[Any]:
        """One more node until the block ends, if nobody has killed it by then."""
        node = self.add(**resources)
        try:
            yield node
        finally:
            if node in self._cluster.list_all_nodes():
                self.kill(node)

    def kill(self, node: Any) -> None:
        """Kills a node with all its processes, as a power cut would."""
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """Ends every process of the cluster."""
        self._cluster.shutdown()


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster until the block ends; its environment is this process's meanwhile."""
    before = dict(os.environ)
    # Short: the path of a socket may have only about 100 characters.
    folder = tempfile.mkdtemp(prefix=f"{prefix('ray')}-")
    os.environ.update(ENVIRONMENT, RAY_TMPDIR=folder)
    try:
        cluster = Cluster()
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)
