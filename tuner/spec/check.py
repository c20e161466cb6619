"""From a study file to what the service runs: defaults filled in, every value checked.

:func:`check` is for a study that somebody submits: it also looks at the task's data.
:func:`resolve` is for one that was accepted before, and reads nothing but the spec itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from optuna.distributions import distribution_to_json

from tuner import optimizers, pruners, samplers, tasks
from tuner.errors import InvalidInput
from tuner.search import Budget, Objective, Record, Search
from tuner.spaces import Prior, Space
from tuner.spaces.parse import LARGEST_INT
from tuner.spec import names, range_test, scripts
from tuner.spec.built import check_params, check_prefixes, facts, freeze
from tuner.spec.defaults import auto_space
from tuner.spec.study import (
    BudgetSpec,
    ObjectiveSpec,
    PrunerSpec,
    SamplerSpec,
    StudySpec,
    TaskSpec,
)
from tuner.tasks import Setting, TaskForm

Locate = Callable[[Mapping[str, Any]], dict[str, Any]]

MOST_STEPS = 2**31 - 1
"""What the databases' columns of steps hold."""
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

    @cached_property
    def distributions(self) -> dict[str, str]:
        """What is searched, as Optuna writes its distributions."""
        return {k: distribution_to_json(d) for k, d in self.space.distributions().items()}

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
            warm_start=warm_start,
        )


def resolve(spec: StudySpec, form: TaskForm | None = None, locate: Locate = dict) -> Checked:
    """Fills in what the study leaves open.

    One that was resolved before needs no task: what the task decides is written in it.

    Args:
        spec: The study.
        form: What workers say of its task, where that is not installed here.
        locate: Makes a task's parameters those that are valid on this machine.

    Raises:
        InvalidInput: A name is unknown, or the space, the objective or the budget is wrong.
    """
    objective = spec.objective
    if not objective:
        metric, direction = OWN_OBJECTIVE if spec.task is None else _form(spec.task, form).objective
        objective = (ObjectiveSpec.model_validate({"metric": metric, "direction": direction}),)
    for i, one in enumerate(objective):
        if one.metric in [o.metric for o in objective[:i]]:
            raise InvalidInput(f"objective[{i}].metric", f"{one.metric!r} is there already")
    raw = _auto(spec.task, form, locate) if spec.space == "auto" else spec.space
    space = Space.parse(raw)
    if form is not None and form.kind == "script":
        space = scripts.of_script(space)
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
            "range_test": _range_test(spec, space, form),
            "budget": budget,
            "sampler": sampler,
            "pruner": pruner,
        }
    )
    return Checked(
        resolved,
        space.with_priors(_priors(space, spec.task)),
        tuple(Objective(o.metric, o.direction) for o in objective),
        *_steps(budget, space, spec.eval_every),
    )


def _range_test(spec: StudySpec, space: Space, form: TaskForm | None) -> bool | None:
    """Whether there is one: ``true`` or nothing, so that a resolved study resolves to itself.

    Raises:
        InvalidInput: It is asked for and makes no sense.
    """
    wanted = spec.space == "auto" if spec.range_test is None else spec.range_test
    if not wanted:
        return None
    if spec.task is None:
        why = "it needs a task"
    elif form is not None and form.kind == "script":
        why = f"the script {spec.task.name} trains by itself"
    else:
        why = range_test.unfit(space)
    if why and spec.range_test:
        raise InvalidInput("range_test", f"cannot be made: {why}")
    return None if why else True


def check(spec: StudySpec, form: TaskForm | None = None, locate: Locate = dict) -> Checked:
    """Resolves a study and checks every value of it against the registries and the data.

    Args:
        spec: The study.
        form: What workers say of its task. One that is installed here is checked more closely, with
            its data.
        locate: Makes a task's parameters those that are valid on this machine, such as the path of
            an uploaded dataset.

    Raises:
        InvalidInput: For the first value that is wrong; ``field`` is its path in the study file.
    """
    if spec.task is not None and spec.task.name in tasks.registry:
        form = None
    checked = resolve(spec, form, locate)
    _check_end(checked)
    if spec.task is None:
        _check_copies(
            checked,
            "starts trials from the checkpoints of others, and a loop of your own keeps its own",
        )
    elif form is None:
        task, params = tasks.get(spec.task.name), freeze(locate(spec.task.params))
        known = facts(spec.task.name, params)
        _check_metrics(checked, known.metrics)
        _check_names(checked, task.settings, known.metrics, known.train_size)
        if any(name.startswith(names.LR_SCALE) for name in checked.space.parameters):
            check_prefixes(spec.task.name, params, names.corners(checked.space))
    else:
        check_params(form, spec.task.params)
        if form.metrics is not None:
            _check_metrics(checked, form.metrics)
        if form.kind == "script":
            scripts.check(checked.space)
            _check_copies(
                checked,
                "copies checkpoints from trial to trial, and only a script knows what is in its "
                "own",
            )
        else:
            _check_names(checked, form.settings, form.metrics or (), None)
    idle = checked.search().pruner.idle(checked.budget.trials)
    if idle is not None:
        raise InvalidInput(*idle)
    return checked


def _check_copies(checked: Checked, why: str) -> None:
    """Refuses a pruner that copies trials where their checkpoints are not ours."""
    pruner = checked.spec.pruner
    if pruner is not None and pruners.get(pruner.name).copies:
        raise InvalidInput("pruner.name", f"{pruner.name} {why}; try asha")


def _check_metrics(checked: Checked, known: Sequence[str]) -> None:
    for i, one in enumerate(checked.objectives):
        at = "objective.metric" if len(checked.objectives) == 1 else f"objective[{i}].metric"
        _among(one.metric, known, at)
    if checked.spec.constraint is not None:
        _among(checked.spec.constraint.metric, known, "constraint.metric")


def _check_names(
    checked: Checked, settings: Mapping[str, Setting], metrics: Sequence[str], size: int | None
) -> None:
    epochs = checked.max_step * checked.spec.eval_every
    names.check_space(checked.space, settings, metrics, size, epochs)


def _form(task: TaskSpec, form: TaskForm | None) -> TaskForm:
    return form or TaskForm.of(tasks.get(task.name, "task.name"))


def _auto(task: TaskSpec | None, form: TaskForm | None, locate: Locate) -> dict[str, Any]:
    """The space that a study without one of its own searches."""
    if task is None:
        raise InvalidInput("space", "auto needs a task; without one, name what is searched")
    if form is None:
        size = facts(task.name, freeze(locate(task.params))).train_size
        return auto_space(tasks.get(task.name).settings, size)
    if form.kind == "script":
        raise InvalidInput("space", f"auto is not for the script {task.name}: name what it reads")
    return auto_space(form.settings, None)


def _default(registered: list[str], *wanted: str) -> str:
    return next(name for name in (*wanted, *registered) if name in registered)


def _among(name: str, known: Sequence[str], field: str) -> None:
    if name not in known:
        raise InvalidInput(field, f"{name!r} is none of {', '.join(known)}", known=list(known))


def _steps(budget: BudgetSpec, space: Space, eval_every: float) -> tuple[int, Budget]:
    """The budget in evaluation periods; ``epochs`` in the space may only shorten a training."""
    longest = names.largest(space.parameters.get("epochs"))
    epochs = float(budget.epochs if longest is None else longest)
    steps = epochs / eval_every
    if steps < 1 and longest is not None:
        raise InvalidInput(
            "space.epochs", f"{epochs:g} is less than one evaluation period, {eval_every:g}"
        )
    if steps > MOST_STEPS:
        raise InvalidInput(
            "eval_every" if longest is None or epochs <= MOST_STEPS else "space.epochs",
            f"{epochs:g} epochs are more than {MOST_STEPS} evaluation periods of {eval_every:g}",
        )
    if steps < 1 or (longest is None and abs(steps - round(steps)) > 1e-9 * steps):
        raise InvalidInput("eval_every", f"{epochs:g} epochs are no multiple of {eval_every:g}")
    total = budget.total_epochs
    if total is not None and total < eval_every:
        raise InvalidInput("budget.total_epochs", f"{total} is less than one evaluation period")
    if total is not None and total / eval_every > LARGEST_INT:
        raise InvalidInput(
            "eval_every", f"{total} epochs in all are too many evaluation periods of {eval_every:g}"
        )
    max_step = math.ceil(steps - 1e-9)
    return max_step, Budget(
        trials=budget.trials,
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


def _priors(space: Space, task: TaskSpec | None) -> dict[str | None, dict[str, Prior]]:
    """Where each optimizer's good values lie, under the name that a configuration has for it.

    The default optimizer is chosen by a task; in a loop of one's own ``lr`` may mean anything.
    """
    listed = names.values(space.parameters.get("optimizer"))
    # Names that are none are refused by the check of the space.
    chosen: dict[str | None, str] = {
        name: name for name in listed if isinstance(name, str) and name in optimizers.registry
    }
    if task is not None and not names.always(space, "optimizer"):
        chosen[None] = names.DEFAULT_OPTIMIZER
    out: dict[str | None, dict[str, Prior]] = {}
    for said, name in chosen.items():
        for key, hyper in optimizers.get(name).hyper.items():
            prior = hyper.prior
            if prior is None or prior.spread <= 0:
                continue
            if prior.of == "complement":
                out.setdefault(said, {})[key] = Prior(prior.center, prior.spread, "complement")
            else:
                out.setdefault(said, {})[key] = Prior(
                    prior.center, prior.spread, "log" if hyper.log else "linear"
                )
    return out
