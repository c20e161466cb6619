"""Folders of a test run that must lie in /tmp itself, and what runs that were killed left there."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

RUN_ENV = "TUNER_TEST_RUN"
"""The first process of the run, which all its workers know."""


def prefix(kind: str) -> str:
    """What the name of a folder begins with; the run in it says whose it is."""
    return f"tuner-{kind}-{os.environ.get(RUN_ENV, os.getpid())}"


def left_behind() -> Iterator[Path]:
    """Folders of runs that are no more."""
    for folder in Path(tempfile.gettempdir()).glob("tuner-*"):
        named = re.fullmatch(
            r"tuner-(?:postgres|fault-pg|faults|queue|ray)-(\d+)(-.*)?", folder.name
        )
        if named and not Path(f"/proc/{named[1]}").exists():
            yield folder
