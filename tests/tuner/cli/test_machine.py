"""What a command finds on its machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tuner.cli import machine
from tuner.cli.machine import gpus, places_of_worker
from tuner.worker.places import Place

TOOL = """#!/bin/sh
echo "GPU 0: NVIDIA H100 (UUID: GPU-aaaa)"
echo "GPU 1: NVIDIA H100 (UUID: GPU-bbbb)"
echo "  MIG 1g.10gb Device 0: (UUID: MIG-cccc)"
echo "GPU 2: NVIDIA H100 (UUID: GPU-dddd)"
"""


def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str | None) -> None:
    """Lets NVIDIA's tool be there, and three GPUs."""
    monkeypatch.setattr(machine, "_cuda_of_torch", lambda: cuda)
    machine._usable.cache_clear()
    tool = tmp_path / "nvidia-smi"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 3), ("1", 1), ("0,2", 2), ("GPU-bbbb,GPU-aaaa", 2), ("", 0), ("-1", 0), ("0,-1,2", 1)],
)
def test_gpus_are_those_that_cuda_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: int
) -> None:
    shown(tmp_path, monkeypatch, cuda="13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == expected


def test_a_torch_for_the_cpu_alone_has_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert machine._cuda_of_torch() == torch.version.cuda
    shown(tmp_path, monkeypatch, cuda=None)
    assert gpus() == gpus() == 0
    assert caplog.text.count("CPU build") == 1


def test_no_tool_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == 0


def test_a_worker_takes_every_gpu_unless_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(tmp_path, monkeypatch, cuda="13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert places_of_worker("auto", 1) == [Place("cuda:0", 1), Place("cuda:1", 1)]
    assert places_of_worker("auto", 2) == [Place("cuda:0", 2), Place("cuda:1", 2)] * 2
    assert places_of_worker("cuda:1", 2) == [Place("cuda:1", 2)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert places_of_worker("auto", 2) == [Place("auto", 2)]
