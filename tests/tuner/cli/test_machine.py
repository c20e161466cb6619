"""What a command finds on its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.cli.machine import gpus

TOOL = """#!/bin/sh
echo "GPU 0: NVIDIA H100 (UUID: GPU-aaaa)"
echo "GPU 1: NVIDIA H100 (UUID: GPU-bbbb)"
echo "  MIG 1g.10gb Device 0: (UUID: MIG-cccc)"
echo "GPU 2: NVIDIA H100 (UUID: GPU-dddd)"
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 3), ("1", 1), ("0,2", 2), ("GPU-bbbb,GPU-aaaa", 2), ("", 0), ("-1", 0), ("0,-1,2", 1)],
)
def test_gpus_are_those_that_cuda_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: int
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == expected


def test_no_tool_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == 0
