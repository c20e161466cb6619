from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from tuner.training.allocator import keep_memory
if sys.argv[1] == "keep" and not keep_memory():
    sys.exit(3)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        block = b'x' * (40 << 20)  # more than glibc ever keeps by itself
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_freed_blocks_stay_in_the_process() -> None:
    """Pages are cleared by the system once, not at every allocation."""

    def run(mode: str) -> int:
        command = [sys.executable, "-c", PROGRAM, mode]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 3:
            pytest.skip("the C library here is not glibc")
        return int(done.stdout)

    assert run("keep") < run("default") / 10
