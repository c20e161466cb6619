"""What the service answers with: frozen values, the same for REST, pages and commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tuner.protocol import Checkpoint
from tuner.spec import Checked
from tuner.storage import measurements
from tuner.storage.measurements import Point
from tuner.storage.models import (
    FINISHED_STUDY_STATES,
    FINISHED_TRIAL_STATES,
    Event,
    Probe,
    Worker,
)
from tuner.storage.studies import StudyRow
from tuner.storage.tallies import Counts
from tuner.storage.trials import TrialRow

T = TypeVar("T")


class View(BaseModel):
    """A frozen value; NaN and infinity are written as text."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class Page(View, Generic[T]):
    """One page of a list, and the cursor of the next."""

    items: list[T]
    next_cursor: str | None = Field(None, description="Pass it on for the next page; null: last.")


class ObjectiveView(View):
    """What is optimised."""

    metric: str
    direction: str


class CountsView(View):
    """Trials by what becomes of them; running excludes those set aside (paused)."""

    waiting: int = 0
    running: int = 0
    paused: int = 0
    complete: int = 0
    pruned: int = 0
    fail: int = 0

    @property
    def finished(self) -> int:
        """Trials that never change again."""
        return self.complete + self.pruned + self.fail

    @property
    def total(self) -> int:
        """All of them."""
        return self.finished + self.waiting + self.running + self.paused


class RangeTestView(View):
    """Which learning rates a study searches, by the range test before its first trial."""

    state: str = Field(description="waiting, running, measured, failed or skipped")
    low: float | None = Field(description="Least lr that is searched; null: not yet decided.")
    high: float | None
    suggestion: float | None = Field(None, description="Where the loss falls fastest.")
    why: list[str] = Field(description="How the range came about.")
    attempt: int
    worker_id: int | None
    seconds: float | None = Field(None, description="That a device was busy with it.")


class RangeEvidence(RangeTestView):
    """The same with the curve that it was read from."""

    config: dict[str, Any] = Field(description="What was trained.")
    drop: float | None = Field(description="The first lr at which the loss had fallen for certain.")
    divergence: float | None = Field(description="The first lr at which a seed diverged.")
    lr: list[float]
    loss: list[float | None] = Field(description="Smoothed, averaged over seeds; null: diverged.")
    started_at: datetime | None
    finished_at: datetime | None


class TrialView(View):
    """One trial."""

    id: int
    study_id: int
    number: int
    state: str = Field(description="waiting, running, complete, pruned or fail")
    paused: bool = Field(description="Set aside by the pruner; it may go on later.")
    params: dict[str, Any] = Field(description="Suggested values.")
    config: dict[str, Any] = Field(description="Suggested values and the space's constants.")
    values: list[float] | None = Field(description="One number for each objective.")
    value: float | None = Field(description="The first of them.")
    constraint: float | None = Field(description="By how much the constraint is broken.")
    seed: int
    origin: str
    attempt: int
    worker_id: int | None
    step: int
    until: int
    max_step: int
    reason: str | None
    device_seconds: float
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None
    last_metrics: dict[str, float | None]
    samples: int | None
    checkpoint: Checkpoint | None = Field(description="Its last saved state, while that is kept.")

    @property
    def finished(self) -> bool:
        """Whether it never changes again."""
        return self.state in FINISHED_TRIAL_STATES


class StudyView(View):
    """One study and how far it is."""

    id: int
    name: str
    state: str
    reason: str | None
    task: str | None
    objective: list[ObjectiveView]
    directions: list[str]
    owner: str | None
    tags: list[str]
    description: str
    priority: int
    max_concurrent: int | None
    budget: dict[str, Any]
    range_test: RangeTestView | None = Field(description="null: the study has none.")
    counts: CountsView
    best: TrialView | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    device_seconds: float
    active_seconds: float = Field(
        description="Wall seconds in which it was running and not left alone."
    )
    progress: float = Field(ge=0.0, le=1.0)
    eta_seconds: float | None
    throughput: float | None = Field(None, description="Training samples a second, now.")
    workers: int | None = Field(None, description="Workers that hold its trials, now.")
    spec: dict[str, Any]

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in FINISHED_STUDY_STATES


class MeasurementView(View):
    """One evaluation of a trial."""

    step: int
    attempt: int
    value: float | None
    samples: int | None
    seconds: float | None
    metrics: dict[str, float | None]
    created_at: datetime


class WorkerView(View):
    """One worker."""

    id: int
    name: str
    state: str
    device: dict[str, Any]
    tasks: list[str]
    slots: int
    held: int = Field(description="Trials it holds now.")
    status: dict[str, Any]
    registered_at: datetime
    heartbeat_at: datetime


class EventView(View):
    """One change."""

    id: int
    study_id: int | None
    trial_id: int | None
    worker_id: int | None
    kind: str
    actor: str | None
    data: dict[str, Any]
    created_at: datetime


def trial_view(
    row: TrialRow, checked: Checked | None, last: Point | None, now: datetime
) -> TrialView:
    """A trial as shown.

    Args:
        row: As stored.
        checked: Its study as submitted; None: one that Optuna made.
        last: Its last point, if any.
        now: The present moment, for the duration of one that runs.
    """
    config = dict(row.params) if checked is None else checked.space.fill(row.params)
    values = None
    if row.values is not None and row.state in ("complete", "pruned"):
        values = [float(v) for v in row.values]
    end = row.finished_at or (now if row.state == "running" else None)
    started = row.started_at
    return TrialView(
        id=row.id,
        study_id=row.study_id,
        number=row.number,
        state=row.state,
        paused=row.paused,
        params=row.params,
        config=config,
        values=values,
        value=None if values is None else values[0],
        constraint=row.constraint,
        seed=row.seed,
        origin=row.origin,
        attempt=row.attempt,
        worker_id=row.worker_id,
        step=row.step,
        until=row.until,
        max_step=max(row.step, 1) if checked is None else checked.max_step_of(config),
        reason=row.reason,
        device_seconds=row.device_seconds,
        created_at=row.created_at,
        started_at=started,
        finished_at=row.finished_at,
        duration_seconds=(end - started).total_seconds() if end and started else None,
        last_metrics={} if last is None else measurements.numbers(last.metrics),
        samples=None if last is None else last.samples,
        checkpoint=checkpoint_of(row),
    )


def checkpoint_of(row: TrialRow) -> Checkpoint | None:
    """Where a trial's last saved state is."""
    at = row.checkpoint
    if at is None:
        return None
    return Checkpoint(uri=at["uri"], step=at["step"], samples=at.get("samples"))


def study_view(
    study: StudyRow,
    checked: Checked | None,
    counts: Counts,
    best: TrialView | None,
    *,
    active_seconds: float,
    progress: float,
    probe: Probe | None = None,
) -> StudyView:
    """A study as shown."""
    spec = study.spec
    objective = [] if checked is None else checked.objectives
    ended = study.finished_at is not None
    eta = None
    if not ended and study.state == "running" and 0.0 < progress < 1.0:
        eta = active_seconds * (1.0 - progress) / progress
    return StudyView(
        id=study.id,
        name=study.name,
        state=study.state,
        reason=study.reason,
        task=(spec.get("task") or {}).get("name"),
        objective=[ObjectiveView(metric=o.metric, direction=o.direction) for o in objective],
        directions=study.directions,
        owner=study.owner,
        tags=study.tags,
        description=spec.get("description", ""),
        priority=study.priority,
        max_concurrent=study.max_concurrent,
        budget=spec.get("budget") or {},
        range_test=None if probe is None else RangeTestView(**range_fields(study, probe)),
        counts=CountsView(**vars(counts)),
        best=best,
        created_at=study.created_at,
        started_at=study.started_at,
        finished_at=study.finished_at,
        device_seconds=study.device_seconds,
        active_seconds=active_seconds,
        progress=1.0 if study.state == "completed" else min(max(progress, 0.0), 1.0),
        eta_seconds=0.0 if ended else eta,
        spec=spec,
    )


def range_fields(study: StudyRow, probe: Probe) -> dict[str, Any]:
    """What is shown of a range test, whether or not its curve is."""
    result = probe.result or {}
    searched = (study.lr_range or study.spec["space"]["lr"]) if not study.probing else {}
    why = list(result.get("reasons") or ())
    if probe.reason is not None and not why:
        why = [f"the range stays as it was submitted: {probe.reason}"]
    if probe.state == "measured" and not study.spec.get("range_test"):
        why.append("the space was changed by hand since")
    return {
        "state": probe.state,
        "low": searched.get("low"),
        "high": searched.get("high"),
        "suggestion": result.get("suggestion"),
        "why": why,
        "attempt": probe.attempt,
        "worker_id": probe.worker_id,
        "seconds": result.get("seconds"),
    }


def progress(checked: Checked | None, counts: Counts, steps: int, seconds: float) -> float:
    """How much of the budget that ends the study is used, in [0, 1]."""
    if checked is None:
        return 0.0
    budget = checked.budget
    shares = [0.0]
    if budget.trials:
        shares.append((counts.finished + counts.paused) / budget.trials)
    elif checked.space.grid_size and checked.spec.sampler and checked.spec.sampler.name == "grid":
        shares.append((counts.finished + counts.paused) / checked.space.grid_size)
    if budget.total_epochs:
        shares.append(steps / budget.total_epochs)
    if budget.seconds:
        shares.append(seconds / budget.seconds)
    return min(max(shares), 1.0)


def measurement_views(points: Sequence[Point]) -> list[MeasurementView]:
    """Points as shown."""
    return [
        MeasurementView(
            step=p.step,
            attempt=p.attempt,
            value=p.value,
            samples=p.samples,
            seconds=p.seconds,
            metrics=measurements.numbers(p.metrics),
            created_at=p.created_at,
        )
        for p in points
    ]


def worker_view(worker: Worker, held: int) -> WorkerView:
    """A worker as shown."""
    return WorkerView(
        id=worker.id,
        name=worker.name,
        state=worker.state,
        device=worker.device,
        tasks=worker.tasks,
        slots=worker.slots,
        held=held,
        status=worker.status,
        registered_at=worker.registered_at,
        heartbeat_at=worker.heartbeat_at,
    )


def event_view(event: Event) -> EventView:
    """An event as shown."""
    columns: Mapping[str, Any] = {name: getattr(event, name) for name in EventView.model_fields}
    return EventView(**columns)
