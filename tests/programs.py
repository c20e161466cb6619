"""Programs outside Python that tests run, as a user would."""

from __future__ import annotations

import os
import shutil

import pytest


def needed(name: str) -> str:
    """Where a program is; without it the test is skipped with the reason, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed here")
    return found
