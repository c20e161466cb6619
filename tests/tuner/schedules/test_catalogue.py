"""The page is what the registry says now."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tuner import schedules
from tuner.schedules.catalogue import catalogue, page

DOCS = Path(__file__).parents[3] / "docs" / "schedules.md"


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(), (
        "run: python -m tuner.schedules.catalogue > docs/schedules.md"
    )


def test_the_catalogue_is_json_and_complete() -> None:
    facts = catalogue()
    assert [entry.name for entry in facts] == schedules.names()
    json.dumps([dataclasses.asdict(entry) for entry in facts], allow_nan=False)
    for entry in facts:
        assert bool(entry.points) != entry.stateful
        assert all(0.0 <= x <= 1.0 and y >= 0.0 for x, y in entry.points)
