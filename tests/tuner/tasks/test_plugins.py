"""Tasks of other packages: they join by entry point, as an installed distribution has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation import PATIENCE_SECONDS

TASK = """
from tests.tuner.tasks import zoo

class Theirs(zoo._Classifier):
    summary = "somebody's"

    def model(self, config):
        return zoo.nn.Linear(8, zoo.CLASSES)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip leaves it: a module, and the metadata of what it offers."""
    (tmp_path / "their_tasks.py").write_text(TASK)
    (tmp_path / "their_broken_tasks.py").write_text("raise RuntimeError('no such library')")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tuner.tasks]\ntheir_mlp = their_tasks:Theirs\nbroken = their_broken_tasks:Task\n"
    )
    return tmp_path


def test_an_entry_point_is_a_task_and_a_broken_one_is_left_out(site: Path) -> None:
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "task", "list", "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), root])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    found = {task["name"]: task for task in json.loads(done.stdout)}
    assert found["their_mlp"]["summary"] == "somebody's"
    assert "digits" in found
    assert "broken" not in found
    assert "their_broken_tasks" in done.stderr
