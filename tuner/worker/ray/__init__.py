"""Workers that Ray places: one actor for each GPU, or for a number of CPUs, of a cluster.

Each actor runs the loop of ``tuner worker`` and speaks to the server by itself. Ray starts one
whose process or node died again, wherever there is room, and its trials come back through their
leases like any worker's. The driver keeps as many actors as the server says are wanted, and ends
with them.

Ray is an extra: nothing here imports it before a cluster is asked for.
"""

from tuner.worker.ray.actor import Plan
from tuner.worker.ray.cluster import cluster, kind_of
from tuner.worker.ray.pool import Pool

__all__ = ["Plan", "Pool", "cluster", "kind_of"]
