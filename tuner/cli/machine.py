"""How many workers this machine feeds: one for each GPU, else one for each core up to a few."""

from __future__ import annotations

import logging
import os
import runpy
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from tuner.worker.places import Place, on_cpu, places

log = logging.getLogger(__name__)


def gpus() -> int:
    """The GPUs that this process may use; asked of NVIDIA's tool, since torch is slow to load.

    The tool shows all of them; ``CUDA_VISIBLE_DEVICES`` names those for CUDA, up to an invalid one.
    With a torch that was built without CUDA there are none.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        told = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    shown = sum(line.startswith("GPU ") for line in told.stdout.splitlines())
    if not shown or not _usable():
        return 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return shown
    valid = takewhile(lambda name: name.strip() not in ("", "-1"), named.split(","))
    return min(shown, len(list(valid)))


@cache
def _usable() -> bool:
    """Whether GPUs that are here are of use; where they are not, that is said once."""
    if _cuda_of_torch() is not None:
        return True
    log.warning("the GPUs of this machine stay idle: the torch installed here is a CPU build")
    return False


def _cuda_of_torch() -> str | None:
    """The version of CUDA that torch was built with; its file of versions loads by itself."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    found: str | None = runpy.run_path(str(Path(torch.origin).with_name("version.py")))["cuda"]
    return found


def places_of_worker(device: str, sharing: int) -> list[Place]:
    """Where ``tuner worker`` trains: at ``auto`` on every GPU, with so many processes on each.

    A device that is named, and a machine without GPUs, take one process, which so many share.
    """
    found = gpus() if device == "auto" else 0
    return places(found * sharing, found) or [Place(device, sharing)]


def default_workers() -> int:
    """One for each GPU; without one, a process of one thread for each core."""
    return gpus() or on_cpu()
