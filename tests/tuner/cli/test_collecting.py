"""When commands look for garbage."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

from tuner.cli.collecting import SELDOM, collecting_seldom, sparing_what_is_loaded

WATCHED = """
import gc, json, sys
looks, before = [0, 0, 0], gc.get_threshold()
def count(phase, info):
    if phase == "start":
        looks[info["generation"]] += 1
gc.callbacks.append(count)
from tuner.cli import main
code = main(["task", "check", "digits"])
print(json.dumps([code, looks, gc.get_threshold() == before]), file=sys.stderr)
"""


def test_a_command_loads_what_it_needs_without_looking_through_it_all(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WATCHED]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    code, looks, undone = json.loads(done.stderr.splitlines()[-1])
    assert code == 0
    assert looks[2] <= 1
    assert undone


def test_what_was_set_is_undone() -> None:
    before = gc.get_threshold()
    with collecting_seldom():
        assert gc.get_threshold() == SELDOM
    assert gc.get_threshold() == before


def test_what_is_spared_is_so_until_the_outermost_block_ends() -> None:
    ours = gc.get_freeze_count()  # of the tests' own
    gc.unfreeze()
    with sparing_what_is_loaded():
        assert gc.get_freeze_count() > 0
        with sparing_what_is_loaded():
            pass
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
