"""How many actors nodes have room for."""

from __future__ import annotations

from typing import Any

import pytest

from tuner.worker.ray import Plan
from tuner.worker.ray.actor import Kind


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("kind", "cpus", "fits"),
    [("cpu", 1, 10), ("cpu", 3, 2), ("cpu", 4, 2), ("cpu", 5, 0), ("cuda", 1, 5), ("cuda", 4, 2)],
)
def test_an_actor_needs_all_it_asks_for_on_one_node(kind: Kind, cpus: int, fits: int) -> None:
    nodes = [
        node(CPU=4.0, GPU=1.0),
        node(CPU=4.0, GPU=8.0, memory=1e9),
        node(CPU=2.0),
        node(alive=False, CPU=64.0, GPU=8.0),
        node(),
    ]
    assert Plan("ray", "http://x", None, kind, cpus).fits(nodes) == fits


def test_actors_may_share_a_gpu() -> None:
    plan = Plan("ray", "http://x", None, "cuda", sharing=2)
    assert plan.resources == {"num_cpus": 1, "num_gpus": 0.5}
    assert plan.fits([node(CPU=4.0, GPU=1.0), node(CPU=3.0, GPU=2.0)]) == 5


def test_ray_sets_aside_what_it_takes() -> None:
    assert Plan("ray", "http://x", None, "cpu", 2).resources == {"num_cpus": 2, "num_gpus": 0}
    assert Plan("ray", "http://x", None, "cuda").resources == {"num_cpus": 1, "num_gpus": 1}
