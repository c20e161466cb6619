"""What Linux's control groups leave the container that a process runs in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

MEMORY = (
    ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.max"),
    (
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ),
)
"""Where it keeps the bytes that are used and may be used, by version of control groups."""
CPU = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Where it keeps how long a container may run in each period, likewise."""


def memory() -> float:
    """Bytes that may still be taken; infinity without a limit."""
    return min((most - used for used, most in _told(MEMORY)), default=math.inf)


def cores() -> float:
    """The time that may be used, in cores; infinity without a limit."""
    return min((quota / period for quota, period in _told(CPU) if quota > 0), default=math.inf)


def _told(versions: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """The numbers in the files of each version that is here and has a limit."""
    for paths in versions:
        try:
            yield [int(word) for path in paths for word in Path(path).read_text().split()]
        except (OSError, ValueError):  # such as "max"
            continue
