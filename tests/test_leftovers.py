from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.leftovers import left_behind, prefix


def test_only_what_dead_runs_left_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    over = subprocess.Popen(["true"])
    over.wait()
    left = {f"tuner-postgres-{over.pid}", f"tuner-fault-pg-{over.pid}-x", f"tuner-ray-{over.pid}-y"}
    kept = {f"{prefix('faults')}-x", prefix("postgres"), "tuner-ray-z", f"tuner-else-{over.pid}"}
    for name in left | kept:
        (tmp_path / name).mkdir()
    assert {folder.name for folder in left_behind()} == left
