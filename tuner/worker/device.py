"""The device a worker trains on: which, how big, and how many trials to begin with."""

from __future__ import annotations

import gc
import os
import platform
import socket
from pathlib import Path
from typing import Any

import torch

from tuner import __version__
from tuner.errors import InvalidInput
from tuner.training.allocator import keep_memory
from tuner.worker import containers
from tuner.worker.places import cores

FIRST_SLOTS = {"cpu": 8, "cuda": 64}
"""Trials to begin with; the engine's measurements then say whether fewer or more pay."""
MOST_SLOTS = {"cpu": 16, "cuda": 1024}
"""On a CPU more gain little speed, and cost a sampler that learns from finished trials much."""

GARBAGE = (700, 10, 10)
"""Python's own rhythm of looking for cycles, which commands slow down: some may hold tensors."""
MEMORY_SHARE = 0.8
"""Of the free memory, what a population may plan on; the rest is for what nobody counts."""


def choose(name: str) -> torch.device:
    """The device of that name; ``auto`` takes the first GPU where there is one.

    Raises:
        InvalidInput: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput("device", f"{name!r} is no device; try auto, cpu or cuda:0") from error
    if device.type not in FIRST_SLOTS:
        raise InvalidInput("device", f"{name!r}: only cpu and cuda are supported")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InvalidInput("device", "this machine has no CUDA device that torch can use")
        if (device.index or 0) >= torch.cuda.device_count():
            raise InvalidInput("device", f"there are only {torch.cuda.device_count()} GPUs")
    return device


def prepare(device: torch.device, sharing: int = 1) -> None:
    """Sets up this process to do nothing but train on a device, which so many processes share."""
    gc.freeze()  # what was loaded lasts; to look through it costs a tenth of a second each time
    gc.set_threshold(*GARBAGE)
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # what names no device means this one
        # One that takes more runs out of memory itself, and not its neighbours.
        torch.cuda.set_per_process_memory_fraction(1 / sharing, device.index)
        # TF32 for float32 products: ten bits of mantissa are enough for training.
        torch.set_float32_matmul_precision("high")
    else:
        torch.set_num_threads(min(torch.get_num_threads(), cores()))
        keep_memory()


def describe(device: torch.device) -> dict[str, Any]:
    """What the server is told about the device."""
    told: dict[str, Any] = {
        "kind": device.type,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tuner": __version__,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        told |= {"name": properties.name, "memory": properties.total_memory}
    else:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        told |= {"name": platform.processor() or platform.machine(), "memory": pages}
    return told


def visible(device: torch.device) -> str:
    """``CUDA_VISIBLE_DEVICES`` for a program that is to use this device alone."""
    if device.type != "cuda":
        return ""
    index = torch.cuda.current_device() if device.index is None else device.index
    mine = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return mine[index].strip() if index < len(mine) else str(index)


def free_memory(device: torch.device) -> int:
    """Bytes that this process could still take, those that torch holds in reserve included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + idle
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        # Linux gives up cached files when memory is asked for, which the line above does not count.
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        pass
    return max(0, int(min(free, containers.memory())))


def memory_to_plan_on(device: torch.device, sharing: int) -> int:
    """Bytes that the populations of one of several processes on a device may plan on.

    What is free tells nothing of a GPU on which the others have begun already.
    """
    if device.type == "cuda":
        _, whole = torch.cuda.mem_get_info(device)
    else:
        whole = free_memory(device)
    return int(MEMORY_SHARE * whole / sharing)


def memory_status(device: torch.device) -> dict[str, Any]:
    """Memory of a GPU now: what this process reserved, and what is free."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "memory_reserved": torch.cuda.memory_reserved(device),
        "memory_free": free,
        "memory_total": total,
    }
