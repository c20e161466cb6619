"""Tasks that are installed here, constructed as a study names them, and their data counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from tuner import tasks
from tuner.errors import InvalidInput
from tuner.spec.names import LR_SCALE
from tuner.tasks import Task, TaskForm, splits_of
from tuner.training import architecture


def build(name: str, params: Mapping[str, Any]) -> Task:
    """The task that a study names, constructed.

    Raises:
        InvalidInput: There is no such task, or a parameter is unknown, missing or wrong.
    """
    kind = tasks.get(name, "task.name")
    check_params(TaskForm.of(kind), params)
    try:
        return kind(**params)
    except InvalidInput as error:
        raise _within("task.params", error) from error
    except (TypeError, ValueError, OSError) as error:
        raise InvalidInput("task.params", str(error)) from error


def check_params(form: TaskForm, params: Mapping[str, Any]) -> None:
    """Refuses arguments that a task has not, and the lack of those that it needs, by name."""
    accepted = {parameter.name: parameter for parameter in form.params}
    for key in params:
        if key not in accepted:
            known = ", ".join(accepted) or "none"
            raise InvalidInput(
                f"task.params.{key}", f"{form.name} has no such parameter; it has {known}"
            )
    for key, parameter in accepted.items():
        if key not in params and parameter.required:
            raise InvalidInput(f"task.params.{key}", "is missing")


Frozen = tuple[tuple[str, Any], ...]


def freeze(params: Mapping[str, Any]) -> Frozen:
    """``params`` as a key of a cache; lists become tuples."""
    return tuple(sorted((k, _hashable(v)) for k, v in params.items()))


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ("mapping", freeze(value))
    if isinstance(value, list | tuple):
        return ("list", tuple(_hashable(v) for v in value))
    return value


def _thaw(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == 2 and value[0] == "mapping":
        return {k: _thaw(v) for k, v in value[1]}
    if isinstance(value, tuple) and len(value) == 2 and value[0] == "list":
        return [_thaw(v) for v in value[1]]
    return value


@dataclass(frozen=True)
class Facts:
    """What only a task's data can tell.

    Args:
        train_size: Its training samples.
        metrics: What it measures.
    """

    train_size: int
    metrics: tuple[str, ...]


@lru_cache(maxsize=64)
def facts(name: str, params: Frozen) -> Facts:
    """What the data of a task tells; it is read once per process.

    Raises:
        InvalidInput: The data cannot be read.
    """
    task = build(name, {k: _thaw(v) for k, v in params})
    try:
        splits = splits_of(task)
        if splits.lacking:
            raise InvalidInput("task.params", f"the data have no {splits.lacking} samples")
        size = len(splits.train)  # type: ignore[arg-type]  # others than map-style raise TypeError
    except InvalidInput as error:
        raise _within("task.params", error) from error
    except Exception as error:  # another's code, which may raise what it likes
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput("task.params", f"the data cannot be read: {reason}") from error
    return Facts(size, tuple(task.metric_names()))


def check_prefixes(name: str, params: Frozen, configs: Iterable[Mapping[str, Any]]) -> None:
    """Refuses learning rates of parts that no model of these configurations has.

    Raises:
        InvalidInput: Names the parameter of the space, and the parts that there are.
    """
    task = build(name, {k: _thaw(v) for k, v in params})
    wanted: set[str] = set()
    parts: dict[str, None] = {}
    for config in configs:
        wanted |= {key.removeprefix(LR_SCALE) for key in config if key.startswith(LR_SCALE)}
        try:
            model = architecture.build(task, config, 0, torch.float32)
        except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InvalidInput("space", f"the model cannot be built: {reason}") from error
        for parameter, _ in model.named_parameters(remove_duplicate=False):
            words = parameter.split(".")
            parts.update(dict.fromkeys(".".join(words[:i]) for i in range(1, len(words) + 1)))
    for prefix in sorted(wanted - parts.keys()):
        known = ", ".join(part for part in parts if "." not in part)
        raise InvalidInput(
            f"space.{LR_SCALE}{prefix}", f"the model has no such part; it has {known}"
        )


def _within(prefix: str, error: InvalidInput) -> InvalidInput:
    field = error.field if error.field.startswith(prefix) else f"{prefix}.{error.field}".rstrip(".")
    return InvalidInput(field, error.message.removeprefix(f"{error.field}: "))
