"""What a study can name, from the registries: tasks, optimizers, schedules, samplers, pruners."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from api.problems import documented, finite
from api.security import Ctx, TokenFirst, require
from tuner import optimizers, pruners, samplers, schedules, service, spaces
from tuner.schedules.catalogue import describe
from tuner.tasks import TaskForm

SCHEDULE_POINTS = 61

router = APIRouter(
    route_class=TokenFirst,
    tags=["catalogue"],
    dependencies=[Depends(require("read"))],
    responses=documented(),
)


class Setting(BaseModel):
    """One thing that can be set: its default, its legal range, and where a search looks."""

    name: str = Field(examples=["lr"])
    type: str = Field(examples=["float"], description="float, int, bool, choice or any")
    default: Any = Field(description="Null: chosen from the study, as the description says.")
    required: bool = False
    description: str = ""
    minimum: float | None = Field(default=None, description="The least legal value; null: none.")
    maximum: float | None = Field(default=None, description="The greatest; null: there is none.")
    open_minimum: bool = Field(default=False, description="The minimum itself is not legal.")
    open_maximum: bool = Field(default=False, description="The maximum itself is not legal.")
    choices: list[Any] = Field(default_factory=list)
    search: dict[str, Any] | None = Field(
        default=None,
        description="The default range, in the study file's form.",
        examples=[{"type": "float", "low": 1e-5, "high": 1e-1, "log": True}],
    )


class Entry(BaseModel):
    """One registered name."""

    name: str
    summary: str = ""
    settings: list[Setting] = Field(default_factory=list)


class TaskEntry(Entry):
    """A task: data, model and loss that workers can train."""

    kind: str = Field(description="task, or script: a program of the worker's own config file")
    params: list[Setting] = Field(description="What the study file's ``task.params`` may hold.")
    files: list[str] = Field(
        examples=[["path"]],
        description="Those of the params that name a file: a path, or `dataset:NAME`.",
    )
    metrics: list[str] = Field(
        examples=[["val_loss", "val_accuracy"]],
        description="None: whatever the script reports.",
    )
    objective: dict[str, str] = Field(examples=[{"metric": "val_loss", "direction": "minimize"}])


class RuleEntry(Entry):
    """An optimizer or a schedule: its formula and where it comes from."""

    formula: str = ""
    reference: str = ""
    when: str = Field(default="", description="When to use it.")


class ScheduleEntry(RuleEntry):
    """A schedule, with the course of its multiplier at its default settings."""

    points: list[tuple[float, float]] = Field(
        description="Fraction of the training, multiplier; none where it follows measurements.",
        examples=[[[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]],
    )


@router.get("/tasks", summary="Tasks that workers can train")
def list_tasks(context: Ctx) -> list[TaskEntry]:
    """Every task that is installed here or that a worker has told of, with what it measures."""
    return [_task(form) for form in service.list_tasks(context)]


@router.get("/optimizers", summary="Optimizers")
def list_optimizers() -> list[RuleEntry]:
    """Every optimizer of the registry, with its hyperparameters and their default search ranges."""
    return [
        RuleEntry(
            name=name,
            summary=rule.summary,
            when=rule.when,
            formula=rule.formula,
            reference=" ".join(str(part) for part in rule.reference if part),
            settings=[_hyper(key, hyper) for key, hyper in rule.hyper.items()],
        )
        for name, rule in optimizers.registry.items()
    ]


@router.get("/schedules", summary="Learning-rate schedules")
def list_schedules() -> list[ScheduleEntry]:
    """Every schedule of the registry; its settings are written ``schedule.NAME`` in a space."""
    return [
        ScheduleEntry(
            name=name,
            summary=schedule.summary,
            formula=schedule.formula,
            reference=schedule.reference,
            points=list(_course(name)),
            settings=[
                *(_hyper(key, hyper) for key, hyper in schedule.hyper.items()),
                *(
                    Setting(
                        name=key,
                        type="choice" if option.choices else "any",
                        default=finite(option.default),
                        description=option.doc,
                        choices=list(option.choices),
                    )
                    for key, option in schedule.options.items()
                ),
            ],
        )
        for name, schedule in schedules.registry.items()
    ]


@router.get("/samplers", summary="Samplers: what to try next")
def list_samplers() -> list[Entry]:
    """Every sampler of the registry."""
    return [
        Entry(name=name, summary=sampler.summary, settings=_options(sampler.options))
        for name, sampler in samplers.registry.items()
    ]


@router.get("/pruners", summary="Pruners: what to stop early")
def list_pruners() -> list[Entry]:
    """Every pruner of the registry."""
    return [
        Entry(name=name, summary=pruner.summary, settings=_options(pruner.options))
        for name, pruner in pruners.registry.items()
    ]


def _task(form: TaskForm) -> TaskEntry:
    metric, direction = form.objective
    return TaskEntry(
        name=form.name,
        kind=form.kind,
        summary=form.summary,
        params=[
            Setting(
                name=parameter.name,
                type=parameter.type,
                default=finite(parameter.default),
                required=parameter.required,
            )
            for parameter in form.params
        ],
        files=list(form.files),
        metrics=list(form.metrics or ()),
        objective={"metric": metric, "direction": direction},
        settings=[
            Setting(
                name=key,
                type="choice" if setting.choices else type(setting.default).__name__,
                default=finite(setting.default),
                description=setting.doc,
                minimum=_end(setting.low),
                maximum=_end(setting.high),
                choices=list(setting.choices),
                search=dict(setting.search) if setting.search else None,
            )
            for key, setting in form.settings.items()
        ],
    )


@cache
def _course(name: str) -> tuple[tuple[float, float], ...]:
    return describe(name, count=SCHEDULE_POINTS).points


def _hyper(name: str, hyper: optimizers.Hyper) -> Setting:
    search = None
    if hyper.search is not None:
        low, high = hyper.search
        search = {"type": "float", "low": low, "high": high, "log": hyper.log}
    return Setting(
        name=name,
        type="float",
        default=finite(hyper.default),
        description=hyper.doc,
        **_bounds(hyper),
        search=search,
    )


def _options(options: Mapping[str, spaces.Option]) -> list[Setting]:
    return [
        Setting(
            name=name,
            type=option.kind,
            default=finite(option.default),
            description=option.doc,
            **_bounds(option),
            choices=list(option.choices),
        )
        for name, option in options.items()
    ]


def _bounds(of: optimizers.Hyper | spaces.Option) -> dict[str, Any]:
    low, high = _end(of.low), _end(of.high)
    return {
        "minimum": low,
        "maximum": high,
        "open_minimum": of.open_low and low is not None,
        "open_maximum": of.open_high and high is not None,
    }


def _end(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
