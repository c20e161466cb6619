"""What a study must know of a task: its parameters, settings and metrics, without its code.

Workers send the forms of tasks that a server may not have, and of their scripts, so that a study of
them is checked when it is submitted and not when it is trained.
"""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tuner.tasks.task import Setting, Task

Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Direction = Literal["minimize", "maximize"]
MOST = 1000
"""Entries of any list in a form."""


class Part(BaseModel):
    """A frozen part of a form."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Parameter(Part):
    """An argument of the task, as ``task.params`` names it."""

    name: Name
    type: str = Field("any", max_length=255)
    required: bool = False
    default: Any = None


class TaskForm(Part):
    """What can be said about a task before it is constructed."""

    name: Name
    kind: Literal["task", "script"] = "task"
    summary: str = Field("", max_length=2000)
    params: tuple[Parameter, ...] = Field((), max_length=MOST, fail_fast=True)
    settings: dict[Name, Setting] = Field(default_factory=dict, max_length=MOST)
    metrics: tuple[Name, ...] | None = Field(
        None, max_length=MOST, description="What it measures; null: whatever its script reports."
    )
    objective: tuple[Name, Direction] = ("val_loss", "minimize")
    files: tuple[Name, ...] = Field((), max_length=MOST, fail_fast=True)
    """Parameters that name files."""

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.metrics is not None and self.objective[0] not in self.metrics:
            raise ValueError(f"the objective {self.objective[0]!r} is not among the metrics")
        return self

    @classmethod
    def of(cls, task: type[Task]) -> Self:
        """The form of a task that is installed here."""
        params = [
            Parameter(
                name=key,
                type=_type(parameter.annotation),
                required=parameter.default is parameter.empty,
                default=_default(parameter.default),
            )
            for key, parameter in inspect.signature(task).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        return cls(
            name=task.name,
            summary=task.summary,
            params=tuple(params),
            settings=dict(task.settings),
            metrics=("val_loss", "train_loss", *(f"val_{name}" for name in task.extra_metrics)),
            objective=task.objective,
            files=tuple(name for name in task.files if name in {p.name for p in params}),
        )


def _default(value: Any) -> Any:
    if value is inspect.Parameter.empty:
        return None
    plain = value is None or isinstance(value, str | int | float | bool)
    return value if plain else repr(value)


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "any"
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "any")
