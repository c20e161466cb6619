"""Where a machine's worker processes train."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from tuner.cli.machine import default_workers, gpus
from tuner.errors import InvalidInput
from tuner.worker import containers
from tuner.worker.device import MEMORY_SHARE, memory_to_plan_on, prepare
from tuner.worker.local import spread
from tuner.worker.places import Place, cores, places


@pytest.mark.parametrize(
    ("processes", "gpus", "expected"),
    [
        (2, 0, [Place("cpu", 2)] * 2),
        (2, 2, [Place("cuda:0", 1), Place("cuda:1", 1)]),
        (1, 4, [Place("cuda:0", 1)]),
        (3, 2, [Place("cuda:0", 2), Place("cuda:1", 1), Place("cuda:0", 2)]),
    ],
)
def test_processes_take_the_gpus_in_turn(processes: int, gpus: int, expected: list[Place]) -> None:
    assert places(processes, gpus) == expected


def test_a_run_takes_all_gpus_or_the_one_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert spread("auto") == [Place("cuda:0", 1), Place("cuda:1", 1)]
    assert spread("auto", 4) == [Place("cuda:0", 2), Place("cuda:1", 2)] * 2
    assert spread("cuda:1") == [Place("cuda:1", 1)]
    assert spread("cuda:1", 2) == [Place("cuda:1", 2)] * 2
    assert spread("cpu", 2) == [Place("cpu", 2)] * 2
    with pytest.raises(InvalidInput, match="only 2 GPUs"):
        spread("cuda:2")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a mask of cores")
def test_a_run_takes_the_cores_that_it_may_use() -> None:
    """Which a scheduler of jobs, such as Slurm's, makes fewer than the machine has."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert spread("cpu") == [Place("cpu", 1)]
        assert default_workers() == max(1, gpus())
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_process_that_shares_a_gpu_takes_its_part(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By the index, which a device has only where one was named; torch takes no other."""
    told: list[tuple[float, int | None]] = []

    def note(fraction: float, index: int | None) -> None:
        told.append((fraction, index))

    device = torch.device(name)
    current: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", note)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (10, 1000))  # others have begun
    precision, thresholds = torch.get_float32_matmul_precision(), gc.get_threshold()
    try:
        prepare(device, 2)
    finally:
        torch.set_float32_matmul_precision(precision)
        gc.set_threshold(*thresholds)
    assert told == [(0.5, device.index)]
    assert current == ([] if device.index is None else [device])
    assert memory_to_plan_on(device, 2) == int(MEMORY_SHARE * 500)


@pytest.mark.parametrize(
    ("told", "expected"),
    [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("-1 100000", None)],
)
def test_a_container_may_have_a_share_of_the_cores(
    told: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of_them = len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text(told + "\n")
    monkeypatch.setattr(containers, "CPU", ((str(tmp_path / "cpu.max"),),))
    assert cores() == (expected or all_of_them)
