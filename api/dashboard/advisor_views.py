"""What the advisor's page shows: one frozen dataclass, made from the service's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from api.dashboard.views import Shown
from tuner.advisor import Advice, Fit
from tuner.advisor.advice import Alternative
from tuner.advisor.plan import Plan


@dataclass(frozen=True)
class Changed:
    """One hyperparameter in the advisor's answer."""

    name: str
    old: Any
    new: Any
    why: str
    differs: bool


@dataclass(frozen=True)
class Answer:
    """What the advisor says to a form that holds."""

    advice: Advice
    others: Sequence[Alternative]
    """What every other source says, but for what a caution says already."""
    changed: Sequence[Changed]
    trials: int
    """Finished trials that are evidence."""
    fit: Fit | None
    """Where the trials tell the best learning rate at any batch size."""
    unfit: str
    """Why they do not; empty without any."""
    noise: str
    """The gradient noise scale that the trials measured, in words."""
    picture: Mapping[str, Any]
    """What the chart draws."""


@dataclass(frozen=True)
class PlanForm:
    """The form of a study that would make the advice surer, as it is filled in."""

    task: str
    trials: str
    epochs: str
    name: str


@dataclass(frozen=True)
class AdvisorPage(Shown):
    """What to change with the batch size."""

    values: Mapping[str, str]
    """What the form's fields hold."""
    more: Sequence[str]
    """Hyperparameters with a field of their own, besides lr and batch size."""
    optimizers: Sequence[str]
    rules: Sequence[str]
    studies: Sequence[tuple[int, str]]
    """Whose trials can be evidence: id and name."""
    chosen: Sequence[int]
    error: str
    field: str
    """The form's field that is wrong."""
    answer: Answer | None
    tasks: Sequence[str]
    plan: PlanForm
    planned: Plan | None
    plan_error: str
    query: str
    """The form once more, for the plan's own form."""

    def with_plan_error(self, message: str) -> AdvisorPage:
        """The same with what is wrong with the plan."""
        return replace(self, plan_error=message)
