"""Where the worker processes of one machine train: a device each, or one that several share.

A process trains one population after another. Small ones do not fill a GPU, several processes do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

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


def places(processes: int, gpus: int) -> list[Place]:
    """The place of each process: the GPUs in turn, the CPU where there is none."""
    devices = [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(processes)]
    sharing = Counter(devices)
    return [Place(device, sharing[device]) for device in devices]
