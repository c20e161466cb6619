"""Forms: what of a task can be said without its code, and survives the wire."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.tuner.tasks.zoo import MlpTask
from tuner import tasks
from tuner.tasks import TaskForm


@pytest.mark.parametrize("name", [n for n in tasks.registry if not n.startswith("zoo")])
def test_a_form_survives_the_wire(name: str) -> None:
    form = TaskForm.of(tasks.get(name))
    assert TaskForm.model_validate_json(form.model_dump_json()) == form
    assert form.settings == tasks.get(name).settings
    assert form.objective[0] in (form.metrics or ())


def test_what_a_form_says() -> None:
    form = TaskForm.of(tasks.get("tabular"))
    params = {p.name: p for p in form.params}
    assert [name for name, p in params.items() if p.required] == ["path", "target"]
    assert (params["valid"].default, params["valid"].type) == (0.2, "float")
    assert form.files == ("path", "checkpoint")
    assert form.metrics == ("val_loss", "train_loss", "val_accuracy", "val_absolute_error")
    assert TaskForm.of(tasks.get("digits")).files == ("checkpoint",)


def test_a_default_that_is_no_plain_value_is_described() -> None:
    class Odd(MlpTask):
        name = "odd"

        def __init__(self, start: Any = MlpTask, *rest: int, many: int, **other: int) -> None:
            pass

    start, many = TaskForm.of(Odd).params
    assert "MlpTask" in start.default
    assert (many.name, many.required, many.type) == ("many", True, "int")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"kind": "program"},
        {"objective": ("loss", "minimize"), "metrics": ("accuracy",)},
        {"objective": ("val_loss", "down")},
        {"params": ({"name": "x", "command": "rm"},)},
        {"command": ["rm"]},
    ],
    ids=str,
)
def test_a_wrong_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TaskForm.model_validate({"name": "t", **changes})
