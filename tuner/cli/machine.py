"""How many workers this machine feeds: one for each GPU, else one for each core up to a few."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import takewhile

from tuner.worker.places import MOST_ON_CPU


def gpus() -> int:
    """The GPUs that this process may use; asked of NVIDIA's tool, since torch is slow to load.

    The tool shows all of them; ``CUDA_VISIBLE_DEVICES`` names those for CUDA, up to an invalid one.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        told = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    shown = sum(line.startswith("GPU ") for line in told.stdout.splitlines())
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return shown
    valid = takewhile(lambda name: name.strip() not in ("", "-1"), named.split(","))
    return min(shown, len(list(valid)))


def default_workers() -> int:
    """One for each GPU; without one, a process of one thread for each core."""
    return gpus() or max(1, min(MOST_ON_CPU, cores()))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
