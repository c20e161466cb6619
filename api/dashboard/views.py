"""What pages share; what one alone shows is a frozen dataclass beside its route. No SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from api.problems import Problem
from api.security import Principal
from tuner.service import StudyView

ENDS = {
    "trials": "Complete: the budget of trials is used up.",
    "total_epochs": "Complete: the budget of epochs is used up.",
    "seconds": "Complete: the budget of time is used up.",
    "target": "Complete: the target is reached.",
    "grid": "Complete: every point of the grid was tried.",
}


NO_BEST = {"completed": "ended", "cancelled": "was cancelled", "failed": "failed"}


@dataclass(frozen=True)
class Who(Principal):
    """Who looks: the name on top of the page, and which buttons make sense."""

    session: bool
    """Whether there is a login to end."""


@dataclass(frozen=True)
class Shown:
    """What the frame needs of every page."""

    title: str
    """In the window's title."""
    section: str
    """The path of the menu's entry that is lit."""
    who: Who | None
    """Nobody on the login page, and where an error came before it was known."""
    menu: ClassVar = True
    """Whether there is one."""


@dataclass(frozen=True)
class StudySummary:
    """A study in a list and at the head of its page."""

    id: int
    name: str
    state: str
    reason: str | None
    description: str
    task: str
    own_loop: bool
    """Whether programs of its users train, and no worker ever does."""
    optuna: bool
    """Whether Optuna made it, so that there is no study file to read or to clone."""
    metric: str
    """The first objective."""
    objectives: int
    minimize: bool
    owner: str | None
    tags: Sequence[str]
    parts: Sequence[tuple[str, int]]
    """Trials by state, in the order of the bar's segments."""
    total: int
    """What the bar's full width stands for: the budget where trials are budgeted."""
    running: int
    workers: int
    progress: float | None
    """None where nothing bounds the study."""
    progress_text: str
    eta_seconds: float | None
    throughput: float | None
    device_seconds: float
    best_value: float | None
    best_id: int | None
    finished: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def reason_text(self) -> str:
        """Why the study is in its state, in words."""
        if not self.reason:
            return ""
        if self.state == "completed":
            return ENDS.get(self.reason, self.reason)
        return self.reason

    @property
    def no_best(self) -> str:
        """Why there is no best trial, in words."""
        if dict(self.parts)["complete"]:
            return "No complete trial keeps the constraint."
        end = NO_BEST.get(self.state)
        return f"The study {end} without a complete trial." if end else "No trial is complete yet."

    @classmethod
    def of(cls, study: StudyView) -> StudySummary:
        """The study as the templates see it."""
        counts = study.counts
        parts = (
            ("complete", counts.complete),
            ("pruned", counts.pruned),
            ("fail", counts.fail),
            ("paused", counts.paused),
            ("running", counts.running),
            ("waiting", counts.waiting),
        )
        budget = study.budget.get("trials")
        bounded = any(study.budget.get(name) for name in ("trials", "total_epochs", "seconds"))
        first = study.objective[0] if study.objective else None
        direction = study.directions[0] if study.directions else "minimize"
        return cls(
            id=study.id,
            name=study.name,
            state=study.state,
            reason=study.reason,
            description=study.description,
            task=study.task or ("own loop" if study.spec else "Optuna"),
            own_loop=study.task is None,
            optuna=not study.spec,
            metric=first.metric if first else "value",
            objectives=len(study.directions),
            minimize=direction == "minimize",
            owner=study.owner,
            tags=study.tags,
            parts=parts,
            total=max(budget or 0, sum(count for _, count in parts)),
            running=counts.running,
            workers=study.workers or 0,
            progress=study.progress if bounded or study.progress else None,
            progress_text=f"{counts.finished} of {trials(budget)}"
            if budget
            else trials(counts.finished),
            eta_seconds=None if study.over else study.eta_seconds,
            throughput=study.throughput,
            device_seconds=study.device_seconds,
            best_value=study.best.value if study.best else None,
            best_id=study.best.id if study.best else None,
            finished=study.over,
            created_at=study.created_at,
            started_at=study.started_at,
            finished_at=study.finished_at,
        )


def trials(count: int) -> str:
    """So many trials, in words."""
    return f"{count} {'trial' if count == 1 else 'trials'}"


@dataclass(frozen=True)
class LoginPage(Shown):
    """The login form."""

    menu: ClassVar = False
    error: str
    next: str
    """Where to go once logged in; a path of this server."""


@dataclass(frozen=True)
class ProblemPage(Shown):
    """What went wrong, for a person."""

    problem: Problem
    session: bool
    """Whether there is a login to end, which may be what is wrong."""


def curves_of(names: Iterable[str]) -> list[str]:
    """Metrics with curves of their own, each once; the ends of a metric's interval have none."""
    found = list(dict.fromkeys(names))
    ends = {f"{name}_{end}" for name in found for end in ("low", "high")}
    return [name for name in found if name not in ends]


def device_words(device: Mapping[str, Any]) -> str:
    """A worker's device in a few words; what it does not know of itself is left out."""
    kind, name = (str(device.get(key) or "") for key in ("kind", "name"))
    return " ".join(dict.fromkeys(part for part in (kind, name) if part)) or "–"
