"""Where the worker processes of one machine train: a device each, or one that several share.

A process trains one population after another. Small ones do not fill a GPU, several processes do.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

MOST_ON_CPU = 8
"""Processes on one machine's CPU; more of them starve the sampler of finished trials."""

CONTAINERS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Where Linux keeps how long a container may run in each period, by version of control groups."""


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
    return max(1, int(min(count, _quota())))


def _quota() -> float:
    """What Linux's control groups leave this container, in cores."""
    for path in CONTAINERS:
        try:
            told = [word for name in path for word in Path(name).read_text().split()]
            quota, period = (float(word) for word in told)  # which "max" is not
        except (OSError, ValueError):
            continue
        if quota > 0:
            return quota / period
    return math.inf


def on_cpu() -> int:
    """How many processes this machine feeds without a GPU: one for each core, up to a few."""
    return min(MOST_ON_CPU, cores())


def places(processes: int, gpus: int) -> list[Place]:
    """The place of each process: the GPUs in turn, the CPU where there is none."""
    devices = [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(processes)]
    sharing = Counter(devices)
    return [Place(device, sharing[device]) for device in devices]
