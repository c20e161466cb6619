"""The queue driven by Hypothesis through the service's own calls, on two servers at once.

After every step: no trial has two holders, what is finished stays as it was, budgets are exact, a
token that is not the present one changes nothing, and every acknowledged point is stored once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.tuner.queue.model import Holder, Model, Watch
from tests.tuner.service.simulation import Clock, loss, spec
from tuner import service
from tuner.errors import Conflict, LeaseLost
from tuner.protocol import (
    Checkpoint,
    Heartbeat,
    LeaseRequest,
    Measured,
    Report,
    SlotReport,
    SlotVerdict,
    WorkerHello,
)
from tuner.service import Context, ServiceSettings
from tuner.storage import studies

TRIALS = 7
STEPS = 3
MAX_ATTEMPTS = 3
LEASE = timedelta(seconds=30)
ASKED = timedelta(seconds=60)
OPEN = ("queued", "running")
OVER = ("completed", "failed", "cancelled")
FINISHED = ("complete", "pruned", "fail")
SERVER = st.integers(0, 1)
WORKER = st.integers(0, 2)


class Queue(RuleBasedStateMachine):
    """Workers and loops that take, report, fall silent and come back; users that pause and end."""

    pruner = "none"
    fresh_database: ClassVar[Callable[[], AbstractContextManager[str]]]
    """Gives the address of a database of the example's own, for as long as a block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.url = self.stack.enter_context(type(self).fresh_database())
        self.clock = Clock()
        self.contexts = [self.open(), self.open()]
        self.watches = [Watch(), Watch()]
        self.model = Model()
        self.workers: list[int] = []
        self.said: list[tuple[int, Report]] = []

    def open(self) -> Context:
        settings = ServiceSettings(
            lease_seconds=LEASE.total_seconds(),
            ask_seconds=ASKED.total_seconds(),
            max_attempts=MAX_ATTEMPTS,
        )
        return Context.open(self.url, now=self.clock, settings=settings)

    def teardown(self) -> None:
        try:
            if hasattr(self, "study"):
                self.run_to_the_end()
        finally:
            for ctx in self.contexts:
                ctx.close()
            self.stack.close()

    @initialize(sampler=st.sampled_from(["random", "tpe"]), bound=st.sampled_from([None, 3]))
    def begin(self, sampler: str, bound: int | None) -> None:
        self.bound = bound
        self.study = service.submit(
            self.contexts[0],
            spec(
                sampler=sampler,
                pruner=self.pruner,
                max_concurrent=bound,
                budget={"trials": TRIALS, "epochs": STEPS},
            ),
        ).id
        for i in range(3):
            hello = WorkerHello(name=f"w{i}", tasks=["digits"], slots=4)
            self.workers.append(service.register_worker(self.contexts[i % 2], hello).worker_id)

    # --- workers --------------------------------------------------------------------------------

    @rule(server=SERVER, worker=WORKER, k=st.integers(1, 4), again=st.booleans())
    def claim(self, server: int, worker: int, k: int, again: bool) -> None:
        request = LeaseRequest(k=k)
        answer = service.lease(self.contexts[server], self.workers[worker], request)
        assert len(answer.leased) <= k
        if not self.model.open:
            assert answer.leased == []
        if again and answer.leased:  # the answer was lost, and the other server is asked
            repeated = service.lease(self.contexts[1 - server], self.workers[worker], request)
            assert {t.trial_id for t in repeated.leased} == {t.trial_id for t in answer.leased}
            answer = repeated
        self.take(worker, answer.leased)

    def take(self, worker: int, leased: list[Any]) -> None:
        for trial in leased:
            holder = Holder.of_worker(worker, trial, self.clock.time + LEASE)
            self.model.hold(holder)

    def slot(self, holder: Holder, *, outcome: str = "", repeat: bool = False) -> SlotReport:
        if not repeat:
            holder.step += 1
        step = min(holder.step, STEPS)
        return SlotReport(
            trial_id=holder.trial_id,
            token=holder.token,
            measurements=[self.measured(holder, step)],
            outcome=outcome,
            reason="error" if outcome == "fail" else None,
            checkpoint=Checkpoint(uri=f"memory:{holder.trial_id}", step=step),
        )

    def measured(self, holder: Holder, step: int) -> Measured:
        return Measured(
            step=step, metrics={"val_loss": loss(holder.config, step)}, seconds=float(step)
        )

    def deliver(self, server: int, worker: int, report: Report) -> None:
        """Says it, and makes the model agree with each verdict."""
        answer = service.report(self.contexts[server], self.workers[worker], report)
        for slot, verdict in zip(report.slots, answer.verdicts, strict=True):
            self.judge(slot, verdict)
        self.take(worker, answer.leased)

    def judge(self, slot: SlotReport, verdict: SlotVerdict) -> None:
        holder = self.model.holders.get(slot.trial_id)
        if holder is None or holder.token != slot.token:
            assert verdict.action in ("lost", self.last_word(slot))
            return
        assert verdict.action != "lost", "the present holder was turned away"
        for measured in slot.measurements:
            self.model.stored(holder, measured.step)
        holder.expires = self.clock.time + (LEASE if holder.worker is not None else ASKED)
        if verdict.action != "continue":
            del self.model.holders[slot.trial_id]
        if verdict.action in ("stop", "finish") and slot.trial_id not in self.model.final:
            self.settled()

    def last_word(self, slot: SlotReport) -> str:
        """What a trial's last holder is told when it says again what ended the trial."""
        final = self.model.final.get(slot.trial_id)
        known = self.model.points.get(slot.trial_id, set())
        steps = {(final.attempt, m.step) for m in slot.measurements} if final else set()
        if final is None or not steps <= known:
            return "lost"
        return "finish" if final.state == "complete" else "stop"

    @rule(server=SERVER, worker=WORKER, refill=st.integers(-4, 2))
    def report(self, server: int, worker: int, refill: int) -> None:
        slots = [self.slot(holder) for holder in self.model.of(worker)]
        report = Report(slots=slots, refill=refill)
        self.said.append((worker, report))
        self.deliver(server, worker, report)

    @precondition(lambda self: self.said)
    @rule(server=SERVER, data=st.data())
    def a_report_arrives_once_more(self, server: int, data: st.DataObject) -> None:
        """Its answer was lost, or the network keeps and repeats it: soon, or much later."""
        worker, report = data.draw(st.sampled_from(self.said))
        held = {holder.trial_id for holder in self.model.of(worker)}
        answer = service.report(self.contexts[server], self.workers[worker], report)
        for slot, verdict in zip(report.slots, answer.verdicts, strict=True):
            self.judge(slot, verdict)
        if {trial.trial_id for trial in answer.leased} - held:
            # Nothing was handed out to it the first time, so this is the first.
            assert self.model.open
        self.take(worker, answer.leased)

    @rule(server=SERVER, worker=WORKER, outcome=st.sampled_from(["fail", "returned", "complete"]))
    def end_one(self, server: int, worker: int, outcome: str) -> None:
        slots = [self.slot(holder, outcome=outcome) for holder in self.model.of(worker)[:1]]
        self.deliver(server, worker, Report(slots=slots, refill=-1))

    @precondition(lambda self: any(h.worker is not None for h in self.model.stale))
    @rule(server=SERVER, data=st.data())
    def a_worker_comes_back_late(self, server: int, data: st.DataObject) -> None:
        """One that was frozen past its lease speaks up."""
        ghosts = [h for h in self.model.stale if h.worker is not None]
        ghost = data.draw(st.sampled_from(ghosts))
        before = service.show_trial(self.contexts[0], ghost.trial_id)
        assert ghost.worker is not None
        self.deliver(server, ghost.worker, Report(slots=[self.slot(ghost)], refill=-1))
        beat = Heartbeat(held={ghost.trial_id: ghost.token})
        answer = service.heartbeat(self.contexts[server], self.workers[ghost.worker], beat)
        assert answer.drop == [ghost.trial_id]
        # The clock stands still, so that even durations must be the same.
        assert service.show_trial(self.contexts[0], ghost.trial_id) == before

    @rule(server=SERVER, worker=WORKER)
    def beat(self, server: int, worker: int) -> None:
        holders = self.model.of(worker)
        beat = Heartbeat(held={h.trial_id: h.token for h in holders})
        answer = service.heartbeat(self.contexts[server], self.workers[worker], beat)
        assert answer.drop == []
        for holder in holders:
            holder.expires = self.clock.time + LEASE

    @rule(server=SERVER, worker=WORKER)
    def leave(self, server: int, worker: int) -> None:
        service.leave(self.contexts[server], self.workers[worker])
        for holder in self.model.of(worker):
            self.model.lose(holder.trial_id)

    # --- a user's own loop ----------------------------------------------------------------------

    @rule(server=SERVER, k=st.integers(1, 2), again=st.booleans())
    def ask(self, server: int, k: int, again: bool) -> None:
        key = f"{k} {len(self.model.attempts)} {self.clock.time}" if again else None
        asked = service.ask(self.contexts[server], self.study, k, key=key)
        if key is not None and asked:
            repeated = service.ask(self.contexts[1 - server], self.study, k, key=key)
            known = {a.trial_id for a in repeated}
            # A key of an earlier request may give what is left of that one.
            assert known >= {a.trial_id for a in asked}
        for trial in asked:
            attempt = service.show_trial(self.contexts[server], trial.trial_id).attempt
            self.model.hold(Holder.of_loop(trial, attempt))

    @precondition(lambda self: self.model.of(None))
    @rule(server=SERVER, again=st.booleans(), data=st.data())
    def measure(self, server: int, again: bool, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.model.of(None)))
        holder.step = min(holder.step + 1, STEPS)
        point = self.measured(holder, holder.step)
        slot = SlotReport(trial_id=holder.trial_id, token=holder.token, measurements=[point])
        for ctx in self.contexts[server:] + self.contexts[:server] if again else self.contexts[:1]:
            self.judge(slot, service.report_trial(ctx, holder.trial_id, holder.token, point))
            if holder.trial_id not in {*self.model.holders, *self.model.final}:
                break  # a paused study has taken it back, and nobody holds it any more

    @precondition(lambda self: self.model.of(None))
    @rule(
        server=SERVER,
        state=st.sampled_from(["complete", "pruned", "fail"]),
        again=st.booleans(),
        data=st.data(),
    )
    def tell(self, server: int, state: str, again: bool, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.model.of(None)))
        values = 0.5 if state == "complete" else None
        for ctx in self.contexts if again else self.contexts[server : server + 1]:
            view = service.tell(ctx, holder.trial_id, holder.token, values=values, state=state)
            assert view.state == state
        del self.model.holders[holder.trial_id]
        self.settled()

    @precondition(lambda self: any(h.worker is None for h in self.model.stale))
    @rule(server=SERVER, data=st.data())
    def a_loop_comes_back_late(self, server: int, data: st.DataObject) -> None:
        ghost = data.draw(st.sampled_from([h for h in self.model.stale if h.worker is None]))
        ctx = self.contexts[server]
        before = service.show_trial(ctx, ghost.trial_id)
        with pytest.raises(LeaseLost):
            service.report_trial(ctx, ghost.trial_id, ghost.token, self.measured(ghost, STEPS))
        with pytest.raises(LeaseLost):
            service.tell(ctx, ghost.trial_id, ghost.token, values=1.0)
        with pytest.raises(LeaseLost):
            service.renew_trial(ctx, ghost.trial_id, ghost.token)
        assert service.show_trial(ctx, ghost.trial_id) == before

    # --- users ----------------------------------------------------------------------------------

    @precondition(lambda self: self.model.holders)
    @rule(server=SERVER, data=st.data())
    def stop_one(self, server: int, data: st.DataObject) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.model.holders)))
        service.stop_trial(self.contexts[server], trial_id)
        self.model.lose(trial_id)
        self.settled()

    @rule(server=SERVER, again=st.booleans())
    def enqueue(self, server: int, again: bool) -> None:
        """As long as the budget has room; said twice it is there once."""
        ctx = self.contexts[server]
        config = {"lr": 0.002, "batch_size": 32}
        before = service.show_study(ctx, self.study)
        key = f"enqueue {before.counts.total}"
        try:
            (made,) = service.enqueue(ctx, self.study, [config], key=key)
        except Conflict:
            assert before.counts.total == TRIALS or before.state not in (*OPEN, "paused")
            return
        assert before.counts.total < TRIALS
        if again:
            other = self.contexts[1 - server]
            assert service.enqueue(other, self.study, [config], key=key)[0].id == made.id

    @rule(server=SERVER)
    def pause(self, server: int) -> None:
        if self.state() in (*OPEN, "paused"):
            service.pause_study(self.contexts[server], self.study)
            self.model.open = False

    @rule(server=SERVER)
    def resume(self, server: int) -> None:
        if self.state() == "paused":
            service.resume_study(self.contexts[server], self.study)
            self.model.open = True

    @precondition(lambda self: len(self.model.final) >= TRIALS // 2)
    @rule(server=SERVER, again=st.booleans())
    def stop_study(self, server: int, again: bool) -> None:
        """Drains: what nobody holds ends, what is held goes on."""
        if self.state() not in OVER:
            for ctx in self.contexts if again else self.contexts[server : server + 1]:
                service.stop_study(ctx, self.study)
            self.model.open = False
            self.settled()

    @precondition(lambda self: len(self.model.final) >= TRIALS // 2)
    @rule(server=SERVER, again=st.booleans())
    def cancel_study(self, server: int, again: bool) -> None:
        if self.state() not in OVER:
            for ctx in self.contexts if again else self.contexts[server : server + 1]:
                service.cancel_study(ctx, self.study)
            self.model.open = False
            for trial_id in list(self.model.holders):
                self.model.lose(trial_id)
            self.settled()

    # --- time and servers -----------------------------------------------------------------------

    @rule(servers=st.sampled_from([(0,), (1,), (0, 1)]), seconds=st.sampled_from([5, 20, 31, 65]))
    def wait(self, servers: tuple[int, ...], seconds: int) -> None:
        """Time passes, and the upkeep takes away what has run out."""
        end = self.clock.time + timedelta(seconds=seconds)
        while True:
            for server in servers:
                service.tick(self.contexts[server])
                if self.watches[server].tick(self.clock.time, LEASE):
                    self.expire()
            if self.clock.time >= end:
                break
            self.clock.time = min(end, self.clock.time + timedelta(seconds=5))

    @rule(servers=st.sampled_from([(0,), (1,)]), seconds=st.sampled_from([-3600, -31, 31, 3600]))
    def set_the_clock(self, servers: tuple[int, ...], seconds: int) -> None:
        """Nobody loses anything by it: leases that it ends are given a whole new one."""
        self.clock.advance(seconds)
        for server in servers:
            service.tick(self.contexts[server])
        for watch in self.watches:
            watch.last = None
        if seconds < 0:
            for holder in self.model.holders.values():
                # A loop may have asked for a week, so what is left of its lease is never cut here.
                beyond = self.clock.time + LEASE + LEASE / 2
                if holder.worker is not None and holder.expires > beyond:
                    holder.expires = self.clock.time + LEASE

    def expire(self) -> None:
        for trial_id, holder in list(self.model.holders.items()):
            if holder.expires < self.clock.time:
                if self.model.silent(trial_id) >= MAX_ATTEMPTS:
                    trial = service.show_trial(self.contexts[0], trial_id)
                    assert (trial.state, trial.reason) == ("fail", "lease_expired")
                    self.settled()
                else:
                    self.model.attempts[trial_id] = holder.attempt + 1

    @rule(server=SERVER)
    def restart(self, server: int) -> None:
        """The server's process is gone, with all that it remembered."""
        self.contexts[server].close()
        self.contexts[server] = self.open()
        self.watches[server] = Watch()

    # --- what must hold -------------------------------------------------------------------------

    def state(self) -> str:
        with self.contexts[0].db.session() as session:
            return studies.get(session, self.study).state

    def trials(self) -> dict[int, service.TrialView]:
        """All but their checkpoints, which are deleted some time after a study's end."""
        found = service.list_trials(self.contexts[0], self.study).items
        return {t.id: t.model_copy(update={"checkpoint": None}) for t in found}

    def settled(self) -> None:
        """Something has ended trials: from now on they must stay as they are."""
        for trial_id, trial in self.trials().items():
            if trial.state in FINISHED:
                self.model.final.setdefault(trial_id, trial)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "study"):
            return
        trials = self.trials()
        assert len(trials) <= TRIALS
        assert sorted(t.number for t in trials.values()) == list(range(len(trials)))
        for trial_id, holder in self.model.holders.items():
            assert trials[trial_id].state == "running"
            assert not trials[trial_id].paused
            worker = None if holder.worker is None else self.workers[holder.worker]
            assert trials[trial_id].worker_id == worker
        running = {i for i, t in trials.items() if t.state == "running" and not t.paused}
        assert running == set(self.model.holders)
        if self.bound is not None:
            assert len(running) <= self.bound
        if not self.model.over and self.state() in OVER:
            self.model.open, self.model.over = False, True
            self.settled()
        ended = {i for i, t in trials.items() if t.state in FINISHED}
        assert ended == set(self.model.final), "a trial ended and nobody knows why"
        for trial_id, final in self.model.final.items():
            assert trials[trial_id] == final, "a finished trial has changed"
        for trial_id, wanted in self.model.points.items():
            points = service.measurements(self.contexts[0], trial_id)
            last = {step: max(a for a, s in wanted if s == step) for _, step in wanted}
            assert {p.step: p.attempt for p in points} == last

    def run_to_the_end(self) -> None:
        """Whatever was done to the study, it ends, and every trial of it once."""
        if self.state() == "paused":
            service.resume_study(self.contexts[0], self.study)
            self.model.open = True
        for _ in range(10 * TRIALS * STEPS):
            if self.state() in OVER:
                break
            for worker in range(3):
                self.claim(0, worker, 4, again=False)
                self.report(1, worker, 0)
            if len(self.model.of(None)) == len(self.model.holders):
                self.wait((0, 1), 65)  # only loops hold trials, and they are silent
            self.agrees()
        assert self.state() in OVER
        self.agrees()
        assert set(self.model.final) == set(self.trials())


class Halving(Queue):
    """The same with a pruner that sets trials aside."""

    pruner = "asha"
