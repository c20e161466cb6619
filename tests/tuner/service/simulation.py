"""Workers whose training is a formula, and a clock that tests move: the service under them is real.

The loss of a configuration at a step is known in closed form, so a test can say what a study must
find and what must be stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event

from tuner import service
from tuner.protocol import (
    Checkpoint,
    Leased,
    LeaseRequest,
    Measured,
    Report,
    ReportAnswer,
    SlotReport,
    WorkerHello,
)
from tuner.service import Context, StudyView
from tuner.spec import StudySpec

SPACE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "batch_size": {"type": "categorical", "choices": [16, 32, 64]},
}


class Clock:
    """The time, which passes only when a test says so."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        """Lets the time jump."""
        self.time += timedelta(seconds=seconds)

    def run(self, seconds: float, *servers: Context) -> None:
        """Lets time pass while servers do their upkeep: at once, and then every few seconds."""
        end = self.time + timedelta(seconds=seconds)
        while True:
            for server in servers:
                service.tick(server)
            if self.time >= end:
                return
            self.time = min(end, self.time + timedelta(seconds=5))


def spec(name: str = "study", **changes: Any) -> StudySpec:
    """A study of digits with a random sampler, changed as given."""
    raw: dict[str, Any] = {
        "name": name,
        "task": {"name": "digits"},
        "space": SPACE,
        "sampler": "random",
        "pruner": "none",
        "budget": {"trials": 8, "epochs": 4},
    }
    return StudySpec.parse({**raw, **changes})


def submit(ctx: Context, name: str = "study", **changes: Any) -> StudyView:
    return service.submit(ctx, spec(name, **changes), actor="anna")


def loss(config: Mapping[str, Any], step: int) -> float:
    """Lowest at a learning rate of 1e-3; falls with every step."""
    return 1.0 / step + 0.1 * (math.log10(config["lr"]) + 3.0) ** 2


@dataclass
class Slot:
    leased: Leased
    step: int


@dataclass
class Trainer:
    """A worker: trains what it holds one step a round, and reports."""

    ctx: Context
    slots: int = 4
    name: str = "trainer"
    loss: Callable[[Mapping[str, Any], int], float] = loss
    held: dict[int, Slot] = field(default_factory=dict)
    trained: list[tuple[int, int]] = field(default_factory=list)
    """Trial number and step of every period that was trained, in order."""

    def __post_init__(self) -> None:
        hello = WorkerHello(name=self.name, tasks=["digits"], slots=self.slots)
        self.id = service.register_worker(self.ctx, hello).worker_id

    def lease(self, k: int | None = None) -> list[Leased]:
        wanted = self.slots - len(self.held) if k is None else k
        if wanted < 1:
            return []
        answer = service.lease(self.ctx, self.id, LeaseRequest(k=wanted))
        self.take(answer.leased)
        return answer.leased

    def take(self, leased: list[Leased]) -> None:
        for trial in leased:
            assert trial.trial_id not in self.held, "a trial handed out twice"
            self.held[trial.trial_id] = Slot(trial, trial.start)

    def next_report(self, **changes: Any) -> Report:
        """Trains every slot one step and says so; the report is not yet delivered."""
        slots = []
        for trial_id, slot in self.held.items():
            slot.step += 1
            self.trained.append((slot.leased.number, slot.step))
            value = self.loss(slot.leased.config, slot.step)
            slots.append(
                SlotReport(
                    trial_id=trial_id,
                    token=slot.leased.token,
                    measurements=[
                        Measured(
                            step=slot.step,
                            metrics={"val_loss": value, "val_accuracy": 0.5},
                            samples=1000 * slot.step,
                            seconds=slot.leased.device_seconds
                            + 0.5 * (slot.step - slot.leased.start),
                        )
                    ],
                    checkpoint=Checkpoint(uri=f"memory:{trial_id}/{slot.step}", step=slot.step),
                )
            )
        return Report(slots=slots, **{"refill": self.slots - len(self.held), **changes})

    def deliver(self, report: Report) -> ReportAnswer:
        answer = service.report(self.ctx, self.id, report)
        for verdict in answer.verdicts:
            if verdict.action == "continue":
                self.held[verdict.trial_id].leased = self.held[verdict.trial_id].leased.model_copy(
                    update={"until": verdict.until}
                )
            else:
                self.held.pop(verdict.trial_id, None)
        self.take(answer.leased)
        return answer

    def round(self) -> ReportAnswer:
        return self.deliver(self.next_report())

    def work(self, rounds: int = 500) -> None:
        """Trains until there is nothing more to do."""
        for _ in range(rounds):
            if not self.held and not self.lease():
                return
            self.round()
        raise AssertionError(f"still working after {rounds} rounds")


@contextmanager
def parameters(ctx: Context) -> Iterator[list[int]]:
    """How many parameters each statement of the block has."""
    counts: list[int] = []

    def note(*told: Any) -> None:
        counts.append(len(told[3]))

    event.listen(ctx.db.engine, "before_cursor_execute", note)
    try:
        yield counts
    finally:
        event.remove(ctx.db.engine, "before_cursor_execute", note)
