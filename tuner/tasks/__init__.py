"""Tasks: what a study trains. Each file adds one; outside packages join by entry point.

A server lists and a worker trains only tasks of this registry: a REST client can name a task, never
bring code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from typing_extensions import override

from tuner.registry import Registry
from tuner.tasks.form import TaskForm
from tuner.tasks.task import Arrays, Config, Samples, Setting, Splits, Task, splits_of
from tuner.tasks.weights import Weights


class Tasks(Registry[type[Task]]):
    """The registry of tasks; a class is called what it is registered as."""

    @override
    def add(self, name: str, entry: type[Task]) -> None:
        super().add(name, entry)
        entry.name = name


registry = Tasks("task", "tuner.tasks")

T = TypeVar("T", bound=type[Task])


def register(name: str) -> Callable[[T], T]:
    """Adds a task class under ``name``."""

    def decorate(task: T) -> T:
        registry.add(name, task)
        return task

    return decorate


def get(name: str, field: str = "task.name") -> type[Task]:
    """The task class of that name; raises ``UnknownName`` listing those there are."""
    return registry.get(name, field)


__all__ = [
    "Arrays",
    "Config",
    "Samples",
    "Setting",
    "Splits",
    "Task",
    "TaskForm",
    "Weights",
    "get",
    "register",
    "registry",
    "splits_of",
]
