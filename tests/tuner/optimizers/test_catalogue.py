from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tuner import optimizers
from tuner.optimizers.catalogue import OptimizerEntry, catalogue, page

PAGE = Path(__file__).parents[3] / "docs" / "optimizers.md"


def test_the_committed_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_optimizer_is_there_and_is_json() -> None:
    entries = catalogue()
    assert [e.name for e in entries] == optimizers.names()
    for entry in entries:
        assert json.loads(json.dumps(asdict(entry), allow_nan=False))["name"] == entry.name


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
def test_an_entry_says_what_the_rule_says(entry: OptimizerEntry) -> None:
    rule = optimizers.get(entry.name)
    assert getattr(optimizers, entry.class_name).rule_class is type(rule)
    assert "=" in entry.equations
    assert len(entry.differs) > 5
    assert "``" not in entry.equations
    assert [h.name for h in entry.hyper] == list(rule.hyper)
    for option in entry.options:
        assert option.name.isidentifier()


def test_state_is_counted() -> None:
    size = {e.name: e.state_bytes_per_parameter for e in catalogue()}
    assert size["lion"] == 4.0  # one number of four bytes
    assert size["adamw"] == 8.0
    assert size["adan"] == 16.0
    assert size["adafactor"] == pytest.approx(2 * 256 * 4 / 256**2, abs=0.01)
    assert size["soap"] == 8.0 + 4 * 4.0  # two factors and two bases, each of 256 x 256
