"""Where the worker processes of one machine train: a device each, or one that several share.

A process trains one population after another. Small ones do not fill a GPU, several processes do.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from tuner.worker import containers

MOST_ON_CPU = 8
"""Processes on one machine's CPU; more of them starve the sampler of finished trials."""


@dataclass(frozen=True)
class Place:
    """Where one process trains.

    Attributes:
        device: As torch names it.
        sharing: How many processes share that device.
    """

    device: str
    sharing: int


def cores() -> int:
    """The cores that this process may use; of a container that has a share of them, so many."""
    named = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if named else os.cpu_count() or 1
    return max(1, int(min(count, containers.cores())))


def on_cpu() -> int:
    """How many processes this machine feeds without a GPU: one for each core, up to a few."""
    return min(MOST_ON_CPU, cores())


def places(processes: int, gpus: int) -> list[Place]:
    """The place of each process: the GPUs in turn, the CPU where there is none."""
    devices = [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(processes)]
    sharing = Counter(devices)
    return [Place(device, sharing[device]) for device in devices]
