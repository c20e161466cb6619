"""What each page shows: one frozen dataclass a page, made from the service's views, no SQL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from api.problems import Problem
from api.security import Principal, Scope
from tuner.service import RangeEvidence, StudyView, TrialView, WorkerView

FINISHED_STUDY = frozenset({"completed", "cancelled", "failed"})
ENDS = {
    "trials": "Complete: the budget of trials is used up.",
    "total_epochs": "Complete: the budget of epochs is used up.",
    "seconds": "Complete: the budget of time is used up.",
    "target": "Complete: the target is reached.",
    "grid": "Complete: every point of the grid was tried.",
}
FINISHED_TRIAL = frozenset({"complete", "pruned", "fail"})


@dataclass(frozen=True)
class Who:
    """Who looks: the name on top of the page, and which buttons make sense."""

    name: str
    scopes: frozenset[str]
    session: bool
    """Whether there is a login to end."""

    @classmethod
    def of(cls, principal: Principal, session: bool) -> Who:
        """The one who asks, as the templates see him."""
        return cls(principal.name, principal.scopes, session)

    def may(self, scope: Scope) -> bool:
        """Whether this scope is covered."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True)
class Shown:
    """What the frame needs of every page."""

    title: str
    """In the window's title."""
    section: str
    """The path of the menu's entry that is lit."""
    who: Who | None
    """Nobody on the login page."""


@dataclass(frozen=True)
class StudySummary:
    """A study in a list and at the head of its page."""

    id: int
    name: str
    state: str
    reason: str | None
    description: str
    task: str
    metric: str
    """The first objective."""
    minimize: bool
    owner: str | None
    tags: Sequence[str]
    parts: Sequence[tuple[str, int]]
    """Trials by state, in the order of the bar's segments."""
    total: int
    """What the bar's full width stands for: the budget where trials are budgeted."""
    running: int
    progress: float
    progress_text: str
    eta_seconds: float | None
    throughput: float | None
    device_seconds: float
    best_value: float | None
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
        ended = counts.complete + counts.pruned + counts.fail
        first = study.objective[0] if study.objective else None
        direction = study.directions[0] if study.directions else "minimize"
        return cls(
            id=study.id,
            name=study.name,
            state=study.state,
            reason=study.reason,
            description=study.description,
            task=study.task or "own loop",
            metric=first.metric if first else "value",
            minimize=direction == "minimize",
            owner=study.owner,
            tags=study.tags,
            parts=parts,
            total=max(budget or 0, sum(count for _, count in parts)),
            running=counts.running,
            progress=study.progress,
            progress_text=f"{ended} of {budget} trials" if budget else f"{ended} trials",
            eta_seconds=None if study.state in FINISHED_STUDY else study.eta_seconds,
            throughput=study.throughput,
            device_seconds=study.device_seconds,
            best_value=study.best.value if study.best else None,
            finished=study.state in FINISHED_STUDY,
            created_at=study.created_at,
            started_at=study.started_at,
            finished_at=study.finished_at,
        )


@dataclass(frozen=True)
class StudiesPage(Shown):
    """The first page: all studies."""

    studies: Sequence[StudySummary]
    states: Sequence[str]
    """What the filter of states offers."""
    sorts: Sequence[tuple[str, str]]
    """What the order offers: key and words."""
    text: str
    state: str
    tag: str
    sort: str
    next: str | None
    """The address of the next page."""

    @property
    def filtered(self) -> bool:
        """Whether an empty list may be the filter's doing."""
        return bool(self.text or self.state or self.tag)


@dataclass(frozen=True)
class TrialsTable:
    """A page of trials, sorted and cut by the database."""

    study_id: int
    base: str
    """The address that sorting and paging start from."""
    metric: str
    trials: Sequence[TrialView]
    params: Sequence[str]
    """Hyperparameters that are searched, one column each."""
    best_id: int | None
    state: str
    sort: str
    order: str
    cursor: str | None
    next_cursor: str | None
    total: int
    filters: Sequence[str] = ()
    """Ranges that the parallel coordinates keep, as ``filter`` in the address."""

    @property
    def filtered(self) -> bool:
        """Whether an empty table may be the filter's doing."""
        return bool(self.state or self.filters or self.cursor)

    def link(self, **changes: str | None) -> str:
        """The address of this table with something changed; a new order starts at the first page.

        Args:
            **changes: Values of the address; None takes one away.
        """
        query: dict[str, Any] = {
            "state": self.state or None,
            "sort": self.sort,
            "order": self.order,
            "filter": list(self.filters) or None,
            "cursor": None if "sort" in changes else self.cursor,
        }
        query.update(changes)
        given = {key: value for key, value in query.items() if value is not None}
        return f"{self.base}?{urlencode(given, doseq=True)}#trials"


@dataclass(frozen=True)
class StudyPage(Shown):
    """One study."""

    study: StudySummary
    best: TrialView | None
    front: Sequence[TrialView]
    """The Pareto front, where there are several objectives."""
    table: TrialsTable
    metrics: Sequence[str]
    """Curves that can be drawn."""
    last_event: int
    """Events up to here are in the page; the stream goes on from here."""
    spec_yaml: str
    range: RangeEvidence | None
    """The range test before its first trial, if there is one."""
    range_curve: RangeCurve | None
    """Its picture, once it was measured."""


@dataclass(frozen=True)
class RangeCurve:
    """The loss of a range test against the logarithm of its rates, 300 wide and 90 high."""

    path: str
    left: float
    width: float
    """The range that is searched."""

    @classmethod
    def of(cls, test: RangeEvidence) -> RangeCurve | None:
        """The curve, where anything was measured."""
        known = [(lr, y) for lr, y in zip(test.lr, test.loss, strict=True) if y is not None]
        if len(known) < 2 or test.low is None or test.high is None:
            return None
        first, last = math.log(test.lr[0]), math.log(test.lr[-1])
        low, start = min(y for _, y in known), known[0][1]
        # What diverges may leave the picture, or it would press all else to the floor.
        high = min(max(y for _, y in known), start + 0.5 * (start - low))

        def across(lr: float) -> float:
            return min(max(300 * (math.log(lr) - first) / (last - first), 0.0), 300.0)

        def down(y: float) -> float:
            return 85 - 80 * (min(y, high) - low) / ((high - low) or 1.0)

        path = " ".join(f"{across(lr):.1f},{down(y):.1f}" for lr, y in known)
        return cls(path, across(test.low), across(test.high) - across(test.low))


@dataclass(frozen=True)
class TrialPage(Shown):
    """One trial."""

    study: StudySummary
    trial: TrialView
    worker: str | None
    last: Mapping[str, float | None]
    """Its last measured metrics."""
    is_best: bool
    last_event: int

    @property
    def finished(self) -> bool:
        """Whether it never changes again."""
        return self.trial.state in FINISHED_TRIAL


@dataclass(frozen=True)
class VaryPage(Shown):
    """The form of a variation of a trial."""

    study: StudySummary
    trial: TrialView
    values: Mapping[str, str]
    """What the form's fields hold, by hyperparameter."""
    error: str


@dataclass(frozen=True)
class ComparedRow:
    """One hyperparameter over the compared trials."""

    name: str
    values: Sequence[Any]
    differs: bool


@dataclass(frozen=True)
class ComparePage(Shown):
    """Several trials side by side."""

    study: StudySummary
    trials: Sequence[TrialView]
    rows: Sequence[ComparedRow]


@dataclass(frozen=True)
class WorkerSummary:
    """A worker, in words."""

    id: int
    name: str
    state: str
    device: str
    slots_text: str
    """Slots in use and slots there are."""
    samples_per_second: float | None
    memory_bytes: float | None
    tasks: Sequence[str]
    heartbeat_at: datetime

    @classmethod
    def of(cls, worker: WorkerView) -> WorkerSummary:
        """The worker as the templates see it."""
        device = worker.device
        name = str(device.get("name") or "")
        kind = str(device.get("kind") or device.get("type") or "")
        return cls(
            id=worker.id,
            name=worker.name,
            state=worker.state,
            device=" ".join(dict.fromkeys(part for part in (kind, name) if part)) or "–",
            slots_text=f"{worker.held} of {worker.slots}",
            samples_per_second=_number(worker.status.get("samples_per_second")),
            memory_bytes=_number(worker.status.get("memory_bytes")),
            tasks=worker.tasks,
            heartbeat_at=worker.heartbeat_at,
        )


@dataclass(frozen=True)
class WorkersPage(Shown):
    """All workers."""

    workers: Sequence[WorkerSummary]
    url: str
    """The address of this server, for the line that starts a worker."""


@dataclass(frozen=True)
class LoginPage(Shown):
    """The login form."""

    error: str
    next: str
    """Where to go once logged in; a path of this server."""


@dataclass(frozen=True)
class ProblemPage(Shown):
    """What went wrong, for a person."""

    problem: Problem


@dataclass(frozen=True)
class NewStudyPage(Shown):
    """The form of a new study."""

    catalogue: Mapping[str, Any]
    """Tasks, optimizers, schedules, samplers and pruners, as the REST catalogue has them."""
    start: Mapping[str, Any] = field(default_factory=dict)
    """The study file that the form starts from."""


@dataclass(frozen=True)
class Route:
    """One REST route on the API page."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    parameters: Sequence[Mapping[str, Any]]
    body: str
    """An example, as JSON."""
    answers: Sequence[str]


@dataclass(frozen=True)
class RouteGroup:
    """The routes of one tag."""

    name: str
    description: str
    routes: Sequence[Route]


@dataclass(frozen=True)
class ReferencePage(Shown):
    """The REST API, from its OpenAPI document."""

    about: Sequence[str]
    groups: Sequence[RouteGroup]
    url: str


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
