"""The queue against a model of it in memory, driven by Hypothesis through the service's own calls.

After every step: no trial has two holders, what is finished stays as it was, budgets are exact, a
token that is not the present one changes nothing, and every acknowledged point is stored once.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.tuner.service.simulation import Clock, loss, spec
from tuner import service
from tuner.protocol import (
    Checkpoint,
    Heartbeat,
    Leased,
    LeaseRequest,
    Measured,
    Report,
    SlotReport,
    WorkerHello,
)
from tuner.service import Context
from tuner.storage import migrate

TRIALS = 7
STEPS = 3
MAX_ATTEMPTS = 3
FINISHED = ("complete", "pruned", "fail")


@dataclass
class Holder:
    """A lease that some worker believes in."""

    worker: int
    leased: Leased
    step: int
    expires: Any
    alive: bool = True


@dataclass
class Model:
    """What must be so."""

    holders: dict[int, Holder] = field(default_factory=dict)
    """The one true holder of each trial."""
    stale: list[Holder] = field(default_factory=list)
    """Those that have lost their lease but may still speak."""
    points: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    """Attempt and step of every acknowledged point."""
    finished: dict[int, Any] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)


class Queue(RuleBasedStateMachine):
    """Workers that lease, report, fall silent, come back late, leave; users that stop and retry."""

    url = ""
    pruner = "none"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tuner-queue-"))
        shutil.copy(TEMPLATE / "template.sqlite", self.folder / "queue.sqlite")
        self.clock = Clock()
        self.contexts = [self.open(), self.open()]
        self.model = Model()
        self.workers: list[int] = []

    def open(self) -> Context:
        return Context.open(f"sqlite:///{self.folder / 'queue.sqlite'}", now=self.clock)

    def teardown(self) -> None:
        for ctx in self.contexts:
            ctx.close()
        shutil.rmtree(self.folder)

    @initialize(sampler=st.sampled_from(["random", "tpe"]))
    def begin(self, sampler: str) -> None:
        self.study = service.submit(
            self.contexts[0],
            spec(
                sampler=sampler,
                pruner=self.pruner,
                budget={"trials": TRIALS, "epochs": STEPS},
            ),
        ).id
        for i in range(3):
            hello = WorkerHello(name=f"w{i}", tasks=["digits"], slots=4)
            self.workers.append(service.register_worker(self.contexts[i % 2], hello).worker_id)

    # --- what may happen ------------------------------------------------------------------------

    def take(self, worker: int, leased: list[Leased]) -> None:
        for trial in leased:
            present = self.model.holders.get(trial.trial_id)
            assert present is None, "a trial was handed to a second holder"
            assert trial.trial_id not in self.model.finished, "a finished trial was handed out"
            assert trial.attempt >= self.model.attempts.get(trial.trial_id, 1)
            assert trial.attempt <= MAX_ATTEMPTS
            self.model.attempts[trial.trial_id] = trial.attempt
            self.model.holders[trial.trial_id] = Holder(
                worker, trial, trial.start, self.clock.time + self.lease
            )

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.contexts[0].settings.lease_seconds)

    @rule(server=st.integers(0, 1), worker=st.integers(0, 2), k=st.integers(1, 4))
    def claim(self, server: int, worker: int, k: int) -> None:
        answer = service.lease(self.contexts[server], self.workers[worker], LeaseRequest(k=k))
        assert len(answer.leased) <= k
        self.take(worker, answer.leased)

    def slot(self, holder: Holder, *, outcome: str = "", repeat: bool = False) -> SlotReport:
        if not repeat:
            holder.step += 1
        step = min(holder.step, STEPS)
        return SlotReport(
            trial_id=holder.leased.trial_id,
            token=holder.leased.token,
            measurements=[
                Measured(
                    step=step,
                    metrics={"val_loss": loss(holder.leased.config, step)},
                    seconds=float(step),
                )
            ],
            outcome=outcome,
            reason="error" if outcome == "fail" else None,
            checkpoint=Checkpoint(uri=f"memory:{holder.leased.trial_id}", step=step),
        )

    def deliver(
        self, server: int, worker: int, holders: list[Holder], refill: int, **how: Any
    ) -> None:
        slots = [self.slot(h, **how) for h in holders]
        answer = service.report(
            self.contexts[server], self.workers[worker], Report(slots=slots, refill=refill)
        )
        for holder, verdict, slot in zip(holders, answer.verdicts, slots, strict=True):
            trial_id = holder.leased.trial_id
            if self.model.holders.get(trial_id) is not holder:
                assert verdict.action == "lost"
                continue
            assert verdict.action != "lost", "the present holder was turned away"
            self.model.points.setdefault(trial_id, set()).add(
                (holder.leased.attempt, slot.measurements[0].step)
            )
            holder.expires = self.clock.time + self.lease
            if verdict.action != "continue":
                del self.model.holders[trial_id]
            if verdict.action in ("stop", "finish"):
                self.freeze(trial_id)
        self.take(worker, answer.leased)

    def freeze(self, trial_id: int) -> None:
        self.model.finished[trial_id] = service.show_trial(self.contexts[0], trial_id)

    def of(self, worker: int) -> list[Holder]:
        return [h for h in self.model.holders.values() if h.worker == worker]

    @rule(server=st.integers(0, 1), worker=st.integers(0, 2), refill=st.integers(-4, 2))
    def report(self, server: int, worker: int, refill: int) -> None:
        self.deliver(server, worker, self.of(worker), refill)

    @rule(server=st.integers(0, 1), worker=st.integers(0, 2))
    def repeat_a_report(self, server: int, worker: int) -> None:
        """The answer was lost: the same words again, from whoever still holds."""
        holders = [h for h in self.of(worker) if 0 < h.step <= STEPS]
        holders = [
            h
            for h in holders
            if (h.leased.attempt, h.step) in self.model.points.get(h.leased.trial_id, set())
        ]
        self.deliver(server, worker, holders, -len(holders), repeat=True)

    @rule(
        server=st.integers(0, 1),
        worker=st.integers(0, 2),
        outcome=st.sampled_from(["fail", "returned", "complete"]),
    )
    def end_one(self, server: int, worker: int, outcome: str) -> None:
        self.deliver(server, worker, self.of(worker)[:1], -1, outcome=outcome)

    @precondition(lambda self: self.model.stale)
    @rule(server=st.integers(0, 1), data=st.data())
    def come_back_late(self, server: int, data: st.DataObject) -> None:
        """A worker that was frozen past its lease speaks up."""
        ghost = data.draw(st.sampled_from(self.model.stale))
        before = service.show_trial(self.contexts[0], ghost.leased.trial_id)
        self.deliver(server, ghost.worker, [ghost], -1)
        beat = Heartbeat(held={ghost.leased.trial_id: ghost.leased.token})
        answer = service.heartbeat(self.contexts[server], self.workers[ghost.worker], beat)
        assert answer.drop == [ghost.leased.trial_id]
        after = service.show_trial(self.contexts[0], ghost.leased.trial_id)
        # The clock stands still, so that even durations must be the same.
        assert after == before

    @rule(server=st.integers(0, 1), worker=st.integers(0, 2))
    def beat(self, server: int, worker: int) -> None:
        holders = self.of(worker)
        beat = Heartbeat(held={h.leased.trial_id: h.leased.token for h in holders})
        answer = service.heartbeat(self.contexts[server], self.workers[worker], beat)
        assert answer.drop == []
        for holder in holders:
            holder.expires = self.clock.time + self.lease

    @rule(server=st.integers(0, 1), seconds=st.sampled_from([5, 20, 31]))
    def wait(self, server: int, seconds: int) -> None:
        """Time passes, and the upkeep takes away what has run out."""
        self.clock.advance(seconds)
        service.tick(self.contexts[server])
        for trial_id, holder in list(self.model.holders.items()):
            if holder.expires < self.clock.time:
                self.lose(trial_id)
                if holder.leased.attempt >= MAX_ATTEMPTS:
                    trial = service.show_trial(self.contexts[0], trial_id)
                    assert (trial.state, trial.reason) == ("fail", "lease_expired")
                    self.freeze(trial_id)
                else:
                    self.model.attempts[trial_id] = holder.leased.attempt + 1

    def lose(self, trial_id: int) -> None:
        self.model.stale.append(self.model.holders.pop(trial_id))

    @rule(server=st.integers(0, 1), worker=st.integers(0, 2))
    def leave(self, server: int, worker: int) -> None:
        service.leave(self.contexts[server], self.workers[worker])
        for holder in self.of(worker):
            self.lose(holder.leased.trial_id)

    @precondition(lambda self: self.model.holders)
    @rule(server=st.integers(0, 1), data=st.data())
    def stop_one(self, server: int, data: st.DataObject) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.model.holders)))
        service.stop_trial(self.contexts[server], trial_id)
        self.lose(trial_id)
        self.freeze(trial_id)

    @rule(server=st.integers(0, 1))
    def restart(self, server: int) -> None:
        """The server's process is gone, with all that it remembered."""
        self.contexts[server].close()
        self.contexts[server] = self.open()

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "study"):
            return
        ctx = self.contexts[0]
        trials = {t.id: t for t in service.list_trials(ctx, self.study).items}
        assert len(trials) <= TRIALS
        assert sorted(t.number for t in trials.values()) == list(range(len(trials)))
        for trial_id, holder in self.model.holders.items():
            assert trials[trial_id].state == "running"
            assert not trials[trial_id].paused
            assert trials[trial_id].worker_id == self.workers[holder.worker]
        running = {i for i, t in trials.items() if t.state == "running" and not t.paused}
        assert running == set(self.model.holders)
        for trial_id, final in self.model.finished.items():
            assert trials[trial_id] == final
        ended = {i for i, t in trials.items() if t.state in FINISHED}
        study = service.show_study(ctx, self.study)
        if study.state in ("completed", "failed"):
            assert ended == set(trials)
        else:
            assert ended == set(self.model.finished)
        for trial_id, wanted in self.model.points.items():
            points = service.measurements(ctx, trial_id)
            last = {step: max(a for a, s in wanted if s == step) for _, step in wanted}
            assert {p.step: p.attempt for p in points} == last


class Halving(Queue):
    """The same with a pruner that sets trials aside."""

    pruner = "asha"


TEMPLATE = Path(tempfile.mkdtemp(prefix="tuner-queue-template-"))


@pytest.fixture(scope="module", autouse=True)
def _template() -> Any:
    migrate.upgrade(f"sqlite:///{TEMPLATE / 'template.sqlite'}")
    yield
    shutil.rmtree(TEMPLATE)


@pytest.mark.parametrize("machine", [Queue, Halving])
def test_the_queue_agrees_with_its_model(machine: type[Queue]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            deadline=None,
            derandomize=True,
            max_examples=12,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
