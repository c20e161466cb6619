"""The page is what the registry says now."""

from __future__ import annotations

import inspect
from pathlib import Path

from tuner import tasks
from tuner.tasks.catalogue import page

DOCS = Path(__file__).parents[3] / "docs" / "tasks.md"


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(), (
        "run: python -m tuner.tasks.catalogue > docs/tasks.md"
    )


def test_every_parameter_is_described() -> None:
    text = page()
    for name, task in tasks.registry.items():
        section = text.split(f"## `{name}`")[1].split("\n## ")[0]
        for key in inspect.signature(task).parameters:
            row = next(line for line in section.splitlines() if line.startswith(f"| `{key}` |"))
            assert len(row.split("|")[3].strip()) > 10, (name, key)
