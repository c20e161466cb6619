"""From a study file to what the service runs: defaults filled in, every value checked.

:func:`check` is for a study that somebody submits: it also looks at the task's data.
:func:`resolve` is for one that was accepted before, and reads nothing but the spec itself.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from tuner import optimizers, pruners, samplers, tasks
from tuner.errors import InvalidInput
from tuner.search import Budget, Objective, Record, Search
from tuner.spaces import Prior, Space
from tuner.spec import names, range_test
from tuner.spec.defaults import auto_space
from tuner.spec.study import BudgetSpec, ObjectiveSpec, PrunerSpec, SamplerSpec, StudySpec
from tuner.tasks import Task

DEFAULT_BUDGET = BudgetSpec(trials=64, epochs=20)
OWN_OBJECTIVE = ("value", "minimize")
"""What a study without a task optimises unless it says: the loop tells one number a trial."""


@dataclass(frozen=True)
class Checked:
    """A study file that holds, with its defaults filled in.

    Args:
        spec: What is stored; resolving it again gives an equal value.
        space: What is searched, with the optimizers' priors.
        objectives: The first is what curves show.
        max_step: Evaluation periods of a full training.
        budget: The budget in evaluation periods.
    """

    spec: StudySpec
    space: Space
    objectives: tuple[Objective, ...]
    max_step: int
    budget: Budget

    @cached_property
    def metrics(self) -> list[str]:
        """What a worker's reports must carry."""
        wanted = [o.metric for o in self.objectives]
        if self.spec.constraint is not None and self.spec.constraint.metric not in wanted:
            wanted.append(self.spec.constraint.metric)
        return wanted

    def max_step_of(self, config: Mapping[str, Any]) -> int:
        """The last step of one trial: its own ``epochs`` where the space has them."""
        epochs = config.get("epochs")
        if epochs is None:
            return self.max_step
        return max(1, min(math.ceil(float(epochs) / self.spec.eval_every), self.max_step))

    def last_step(self, params: Mapping[str, Any]) -> int:
        """The last step of a trial with these suggested values."""
        if "epochs" not in self.space.parameters:
            return self.max_step
        return self.max_step_of(self.space.fill(params))

    def ranged(self, low: float, high: float) -> Checked:
        """The study with the range of lr that its range test ended with; the spec stays."""
        return replace(self, space=range_test.ranged(self.space, low, high))

    def search(self, warm_start: Iterable[Record] = ()) -> Search:
        """A fresh search.

        Raises:
            InvalidInput: A setting of the sampler or the pruner is wrong, or the two do not fit.
        """
        spec = self.spec
        if spec.sampler is None or spec.pruner is None:
            raise ValueError("an unresolved spec has no search")
        sampler = spec.sampler.model_dump(exclude={"seed"})
        return Search(
            self.space,
            sampler,
            spec.pruner.model_dump(),
            self.objectives,
            max_step=self.max_step,
            budget=self.budget,
            seed=spec.seed if spec.sampler.seed is None else spec.sampler.seed,
            constraint=spec.constraint,
            warm_start=warm_start,
        )


def resolve(spec: StudySpec) -> Checked:
    """Fills in what the study leaves open.

    Raises:
        InvalidInput: A name is unknown, or the space, the objective or the budget is wrong.
    """
    task = None if spec.task is None else tasks.get(spec.task.name, "task.name")
    objective = spec.objective
    if not objective:
        metric, direction = OWN_OBJECTIVE if task is None else task.objective
        objective = (ObjectiveSpec.model_validate({"metric": metric, "direction": direction}),)
    for i, one in enumerate(objective):
        if one.metric in [o.metric for o in objective[:i]]:
            raise InvalidInput(f"objective[{i}].metric", f"{one.metric!r} is there already")
    if spec.space == "auto":
        if spec.task is None or task is None:
            raise InvalidInput("space", "auto needs a task; without one, name what is searched")
        raw = auto_space(task, train_size(spec.task.name, freeze(spec.task.params)))
    else:
        raw = spec.space
    space = Space.parse(raw)
    budget = spec.budget or DEFAULT_BUDGET
    sampler = spec.sampler or SamplerSpec(name=_default(samplers.names(), "auto", "tpe"))
    several = len(objective) > 1
    if spec.sampler is None and several:
        sampler = SamplerSpec(name=_default(samplers.names(), "nsga2", "random"))
    pruner = spec.pruner or PrunerSpec(
        name="none" if several else _default(pruners.names(), "auto", "asha")
    )
    resolved = spec.model_copy(
        update={
            "objective": tuple(objective),
            "space": space.to_dict(),
            "range_test": _range_test(spec, space),
            "budget": budget,
            "sampler": sampler,
            "pruner": pruner,
        }
    )
    return Checked(
        resolved,
        space.with_priors(_priors(space)),
        tuple(Objective(o.metric, o.direction) for o in objective),
        *_steps(budget, space, spec.eval_every),
    )


def _range_test(spec: StudySpec, space: Space) -> bool | None:
    """Whether there is one: ``true`` or nothing, so that a resolved study resolves to itself.

    Raises:
        InvalidInput: It is asked for and makes no sense.
    """
    wanted = spec.space == "auto" if spec.range_test is None else spec.range_test
    if not wanted:
        return None
    why = "it needs a task" if spec.task is None else range_test.unfit(space)
    if why and spec.range_test:
        raise InvalidInput("range_test", f"cannot be made: {why}")
    return None if why else True


def check(spec: StudySpec) -> Checked:
    """Resolves a study and checks every value of it against the registries and the data.

    Raises:
        InvalidInput: For the first value that is wrong; ``field`` is its path in the study file.
    """
    checked = resolve(spec)
    _check_end(checked)
    if spec.task is not None:
        task = build(spec.task.name, spec.task.params)
        known = task.metric_names()
        for i, one in enumerate(checked.objectives):
            at = "objective.metric" if len(checked.objectives) == 1 else f"objective[{i}].metric"
            _among(one.metric, known, at)
        if spec.constraint is not None:
            _among(spec.constraint.metric, known, "constraint.metric")
        size = train_size(spec.task.name, freeze(spec.task.params))
        names.check_space(checked.space, task, size, checked.max_step * spec.eval_every)
    checked.search()
    return checked


def build(name: str, params: Mapping[str, Any]) -> Task:
    """The task that a study names, constructed.

    Raises:
        InvalidInput: There is no such task, or a parameter is unknown, missing or wrong.
    """
    kind = tasks.get(name, "task.name")
    accepted = inspect.signature(kind).parameters
    for key in params:
        if key not in accepted:
            known = ", ".join(accepted) or "none"
            raise InvalidInput(f"task.params.{key}", f"{name} has no such parameter, but {known}")
    for key, parameter in accepted.items():
        if key not in params and parameter.default is inspect.Parameter.empty:
            raise InvalidInput(f"task.params.{key}", "is missing")
    try:
        return kind(**params)
    except InvalidInput as error:
        raise _within("task.params", error) from error
    except (TypeError, ValueError, OSError) as error:
        raise InvalidInput("task.params", str(error)) from error


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


@lru_cache(maxsize=64)
def train_size(name: str, params: Frozen) -> int:
    """How many training samples a task has; the data is read once per process.

    Raises:
        InvalidInput: The data cannot be read.
    """
    task = build(name, {k: _thaw(v) for k, v in params})
    try:
        train = task.data().train
        return len(train)  # type: ignore[arg-type]  # a map-style dataset; others raise TypeError
    except InvalidInput as error:
        raise _within("task.params", error) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput("task.params", f"the data cannot be read: {error}") from error


def _within(prefix: str, error: InvalidInput) -> InvalidInput:
    field = error.field if error.field.startswith(prefix) else f"{prefix}.{error.field}".rstrip(".")
    return InvalidInput(field, error.message.removeprefix(f"{error.field}: "))


def _default(registered: list[str], *wanted: str) -> str:
    return next(name for name in (*wanted, *registered) if name in registered)


def _among(name: str, known: list[str], field: str) -> None:
    if name not in known:
        raise InvalidInput(field, f"{name!r} is none of {', '.join(known)}", known=known)


def _steps(budget: BudgetSpec, space: Space, eval_every: float) -> tuple[int, Budget]:
    """The budget in evaluation periods; ``epochs`` in the space may only shorten a training."""
    longest = names.largest(space.parameters.get("epochs"))
    epochs = float(budget.epochs if longest is None else longest)
    steps = epochs / eval_every
    if steps < 1 and longest is not None:
        raise InvalidInput(
            "space.epochs", f"{epochs:g} is less than one evaluation period, {eval_every:g}"
        )
    if steps < 1 or (longest is None and abs(steps - round(steps)) > 1e-9 * steps):
        raise InvalidInput("eval_every", f"{epochs:g} epochs are no multiple of {eval_every:g}")
    total = budget.total_epochs
    if total is not None and total < eval_every:
        raise InvalidInput("budget.total_epochs", f"{total} is less than one evaluation period")
    max_step = math.ceil(steps - 1e-9)
    return max_step, Budget(
        trials=budget.trials,
        epochs=max_step,
        total_epochs=None if total is None else int(total / eval_every + 1e-9),
        seconds=budget.seconds,
        target=budget.target,
    )


def _check_end(checked: Checked) -> None:
    budget, sampler = checked.budget, checked.spec.sampler
    if budget.trials or budget.total_epochs or budget.seconds:
        return
    if sampler is None or samplers.get(sampler.name).__name__ in ("GridSampler", "ManualSampler"):
        return
    raise InvalidInput("budget", "nothing ends this study: name trials, total_epochs or seconds")


def _priors(space: Space) -> dict[str, dict[str, Prior]]:
    """Where each chosen optimizer's good values lie, in the terms of the space."""
    out: dict[str, dict[str, Prior]] = {}
    for name in names.values(space.parameters.get("optimizer")) or [names.DEFAULT_OPTIMIZER]:
        if not isinstance(name, str) or name not in optimizers.registry:
            continue  # named by the check of the space
        for key, hyper in optimizers.get(name).hyper.items():
            prior = hyper.prior
            if prior is None or prior.spread <= 0:
                continue
            if prior.of == "complement":
                out.setdefault(name, {})[key] = Prior(prior.center, prior.spread, "complement")
            else:
                out.setdefault(name, {})[key] = Prior(
                    prior.center, prior.spread, "log" if hyper.log else "linear"
                )
    return out
