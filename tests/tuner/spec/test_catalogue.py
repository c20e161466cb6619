"""The page is what the code accepts now, and its examples are studies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner import pruners, samplers
from tuner.errors import InvalidInput
from tuner.spaces.parse import KEYS
from tuner.spec import BudgetSpec, ConstraintSpec, ObjectiveSpec, StudySpec, TaskSpec, check, names
from tuner.spec.catalogue import KEY_DOCS, TYPE_DOCS, page
from tuner.spec.defaults import auto_space

DOCS = Path(__file__).parents[3] / "docs" / "studies.md"
BLOCKS: list[dict[str, Any]] = [
    yaml.safe_load(block)
    for block in re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
]
STUDIES = [block for block in BLOCKS if "name" in block]
SPACES = [block for block in BLOCKS if "name" not in block]


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(), (
        "run: python -m tuner.spec.catalogue > docs/studies.md"
    )


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study["name"])
def test_the_examples_are_studies(study: dict[str, Any]) -> None:
    spec = StudySpec.parse(study)
    assert spec.model_fields_set == study.keys()
    check(spec)


@pytest.mark.parametrize("space", SPACES)
def test_the_pieces_are_spaces(space: dict[str, Any]) -> None:
    check(StudySpec.parse({"name": "x", "task": "digits", "space": space}))


def test_the_space_auto_is_shown() -> None:
    assert len(STUDIES) >= 3
    assert auto_space({}, None) in SPACES


@pytest.mark.parametrize("part", [StudySpec, TaskSpec, ObjectiveSpec, BudgetSpec, ConstraintSpec])
def test_every_field_is_described(part: type[StudySpec]) -> None:
    for name, field in part.model_fields.items():
        assert field.description, name


def test_every_key_and_name_is_there() -> None:
    assert TYPE_DOCS.keys() == KEYS.keys()
    assert KEY_DOCS.keys() == {key for keys in KEYS.values() for key in keys}
    text = page()
    for name in (*names.COMMON, *names.CHOSEN, "optimizer", "schedule", "warmup"):
        assert f"| `{name}` |" in text
    for name in (*samplers.names(), *pruners.names()):
        assert f"### `{name}`\n" in text


def test_what_the_page_says_of_budgets() -> None:
    study = {"name": "x", "task": "digits", "space": {"batch_size": 32}}
    for alone in ({"epochs": 3}, {"target": 0.1}):
        with pytest.raises(InvalidInput, match="nothing ends this study"):
            check(StudySpec.parse({**study, "budget": alone}))
        for sampler in ("grid", "manual"):
            check(StudySpec.parse({**study, "budget": alone, "sampler": sampler}))
    checked = check(StudySpec.parse({**study, "sampler": "grid"}))
    assert (checked.budget.trials, checked.max_step) == (64, 20)
