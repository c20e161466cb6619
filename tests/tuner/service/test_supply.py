"""What is handed out, to whom, in which order, and never one trial or epoch too many."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from tests.tuner.service.simulation import SPACE, Clock, Trainer, submit
from tuner import service
from tuner.errors import Conflict, InvalidInput
from tuner.protocol import Heartbeat, LeaseRequest
from tuner.search import Search
from tuner.service import Context

GRID = {
    "optimizer": "adamw",
    "lr": {"type": "categorical", "choices": [1e-4, 1e-3, 1e-2]},
    "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_never_a_trial_more(ctx: Context, sampler: str) -> None:
    study = submit(ctx, sampler=sampler, budget={"trials": 10, "epochs": 2})
    trainers = [Trainer(ctx, slots=7, name=f"w{i}") for i in range(3)]
    for _ in range(10):
        for trainer in trainers:
            trainer.lease()
            if trainer.held:
                trainer.round()
    assert service.show_study(ctx, study.id).counts.complete == 10
    assert sum(len(t.trained) for t in trainers) == 20


@pytest.mark.parametrize("pruner", ["none", "asha", "median"])
def test_never_an_epoch_more(ctx: Context, pruner: str) -> None:
    budget = {"total_epochs": 50, "epochs": 9}
    study = submit(ctx, pruner=pruner, budget=budget)
    trainers = [Trainer(ctx, slots=3, name=f"w{i}") for i in range(3)]
    for _ in range(60):
        for trainer in trainers:
            trainer.lease()
            if trainer.held:
                trainer.round()
    service.tick(ctx)
    done = service.show_study(ctx, study.id)
    assert (done.state, done.reason) == ("completed", "total_epochs")
    trained = sum(len(t.trained) for t in trainers)
    # Less only where the last epochs are too few for anything that could still be started.
    assert 45 <= trained <= 50
    assert sum(t.step for t in service.list_trials(ctx, study.id).items) == trained


def test_a_grid_is_run_once_and_ends_the_study(ctx: Context) -> None:
    study = submit(ctx, space=GRID, sampler="grid", budget={"epochs": 1})
    trainers = [Trainer(ctx, slots=5, name=f"w{i}") for i in range(2)]
    for _ in range(5):
        for trainer in trainers:
            trainer.lease()
            if trainer.held:
                trainer.round()
    done = service.show_study(ctx, study.id)
    assert (done.state, done.reason, done.counts.complete) == ("completed", "grid", 12)
    trials = service.list_trials(ctx, study.id).items
    assert len({(t.config["lr"], t.config["batch_size"]) for t in trials}) == 12


def test_a_target_ends_the_study_for_all(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 100, "epochs": 50, "target": 0.9})
    first, second = Trainer(ctx, slots=3, name="first"), Trainer(ctx, slots=3, name="second")
    first.lease()
    second.lease()
    second.round()
    for _ in range(60):
        if first.held:
            first.round()
    assert service.show_study(ctx, study.id).state == "running"
    assert first.lease() == []
    second.round()
    assert second.held == {}
    done = service.show_study(ctx, study.id)
    assert (done.state, done.reason) == ("completed", "target")
    assert done.counts.running == done.counts.waiting == 0


def test_wall_seconds_end_the_study(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, budget={"seconds": 100, "epochs": 1000})
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    for _ in range(9):
        clock.advance(10)
        assert {v.action for v in trainer.round().verdicts} == {"continue"}
    service.pause_study(ctx, study.id)
    assert {v.action for v in trainer.round().verdicts} == {"pause"}
    clock.advance(1000)  # time in which the study was paused is not its own
    service.resume_study(ctx, study.id)
    trainer.lease()
    clock.advance(11)
    assert {v.action for v in trainer.round().verdicts} == {"stop"}
    assert trainer.lease() == []
    service.tick(ctx)
    done = service.show_study(ctx, study.id)
    assert (done.state, done.reason) == ("completed", "seconds")
    assert done.counts.running == 0


def test_seconds_in_which_nobody_holds_a_trial_are_not_counted(ctx: Context, clock: Clock) -> None:
    """A study that was interrupted, or whose workers died, has its time when it goes on."""
    study = submit(ctx, budget={"seconds": 100.0, "epochs": 4})
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    clock.advance(10)
    report = trainer.next_report()
    slots = [slot.model_copy(update={"outcome": "returned"}) for slot in report.slots]
    service.report(ctx, trainer.id, report.model_copy(update={"slots": slots, "refill": -2}))
    clock.advance(500)
    service.tick(ctx)
    assert service.show_study(ctx, study.id).active_seconds == pytest.approx(10)
    other = Trainer(ctx, slots=2)
    assert len(other.lease()) == 2
    clock.advance(20)
    assert service.show_study(ctx, study.id).active_seconds == pytest.approx(30)
    for _ in range(50):  # its lease runs out on the way
        clock.advance(10)
        service.tick(ctx)
    shown = service.show_study(ctx, study.id)
    assert shown.state == "running"
    assert shown.active_seconds == pytest.approx(10 + ctx.settings.lease_seconds)
    assert len(Trainer(ctx, slots=2).lease()) == 2


def test_the_clock_of_a_lost_trial_stops_with_the_last_heartbeat(
    ctx: Context, clock: Clock
) -> None:
    study = submit(ctx, budget={"seconds": 10_000.0, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    for _ in range(60):  # a long round
        clock.run(10, ctx)
        service.heartbeat(ctx, trainer.id, Heartbeat(held={leased.trial_id: leased.token}))
    clock.run(200, ctx)
    assert service.show_trial(ctx, leased.trial_id).state == "waiting"
    spent = service.show_study(ctx, study.id).active_seconds
    assert spent == pytest.approx(600 + ctx.settings.lease_seconds)


def test_the_clock_rests_when_the_only_worker_leaves(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, budget={"seconds": 10_000.0, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    trainer.lease()
    clock.run(10, ctx)
    service.leave(ctx, trainer.id)
    clock.run(500, ctx)
    assert service.show_study(ctx, study.id).active_seconds == pytest.approx(10)


def test_the_clock_rests_when_the_last_trial_of_a_drained_worker_ends(
    ctx: Context, clock: Clock
) -> None:
    study = submit(ctx, budget={"seconds": 10_000.0, "epochs": 1})
    trainer = Trainer(ctx, slots=1)
    trainer.lease()
    service.drain_worker(ctx, trainer.id)
    clock.run(10, ctx)
    assert trainer.round().drain
    service.leave(ctx, trainer.id)
    clock.run(500, ctx)
    assert service.show_study(ctx, study.id).active_seconds == pytest.approx(10)
    Trainer(ctx, slots=1).lease()
    clock.run(5, ctx)
    assert service.show_study(ctx, study.id).active_seconds == pytest.approx(15)


def test_a_lost_trial_takes_no_time_back_in_which_another_was_trained(
    ctx: Context, clock: Clock
) -> None:
    """Its lease ran out while nobody listened, and the other one has ended by now."""
    study = submit(ctx, budget={"seconds": 10_000.0, "epochs": 1})
    lost, other = Trainer(ctx, slots=1), Trainer(ctx, slots=1)
    lost.lease()
    other.lease()
    for _ in range(10):
        clock.advance(10)
        held = {i: slot.leased.token for i, slot in other.held.items()}
        service.heartbeat(ctx, other.id, Heartbeat(held=held))
    other.deliver(other.next_report(refill=-1))
    clock.run(60, ctx)
    assert service.show_study(ctx, study.id).counts.waiting == 1
    assert service.show_study(ctx, study.id).active_seconds == pytest.approx(100)


def test_the_clock_of_a_study_that_goes_on_waits_for_a_worker(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, budget={"seconds": 10_000.0, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    trainer.lease()
    clock.run(10, ctx)
    service.pause_study(ctx, study.id)
    trainer.round()
    service.leave(ctx, trainer.id)
    service.resume_study(ctx, study.id)
    clock.run(500, ctx)
    assert service.show_study(ctx, study.id).active_seconds == pytest.approx(10)
    Trainer(ctx, slots=1).lease()
    clock.run(5, ctx)
    assert service.show_study(ctx, study.id).active_seconds == pytest.approx(15)


def test_wall_seconds_end_a_study_of_which_nobody_reports(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, budget={"seconds": 100, "epochs": 1000})
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    for _ in range(11):
        clock.run(10, ctx)
        service.heartbeat(ctx, trainer.id, Heartbeat(held={leased.trial_id: leased.token}))
    assert service.show_study(ctx, study.id).state == "running"
    service.leave(ctx, trainer.id)
    service.tick(ctx)
    done = service.show_study(ctx, study.id)
    assert (done.state, done.reason) == ("completed", "seconds")


def test_max_concurrent_holds_over_all_workers(ctx: Context) -> None:
    study = submit(ctx, max_concurrent=3, budget={"trials": 9, "epochs": 2})
    trainers = [Trainer(ctx, slots=4, name=f"w{i}") for i in range(3)]
    for _ in range(12):
        for trainer in trainers:
            trainer.lease()
        assert sum(len(t.held) for t in trainers) <= 3
        for trainer in trainers:
            if trainer.held:
                trainer.round()
            assert sum(len(t.held) for t in trainers) <= 3
    assert service.show_study(ctx, study.id).counts.complete == 9


def test_higher_priority_is_served_first(ctx: Context) -> None:
    low = submit(ctx, "low")
    high = submit(ctx, "high", priority=5)
    leased = Trainer(ctx, slots=12).lease()
    assert Counter(t.study_id for t in leased) == {high.id: 8, low.id: 4}


def test_studies_of_one_priority_share_the_devices(ctx: Context) -> None:
    studies = [submit(ctx, f"s{i}", budget={"trials": 100, "epochs": 5}) for i in range(2)]
    trainers = [Trainer(ctx, slots=6, name=f"w{i}") for i in range(4)]
    for trainer in trainers:
        trainer.lease()
    for _ in range(20):
        for trainer in trainers:
            trainer.round()
    held = Counter(s.leased.study_id for t in trainers for s in t.held.values())
    assert min(held[s.id] for s in studies) >= 6


def test_a_clock_that_was_set_back_turns_no_share_around(ctx: Context, clock: Clock) -> None:
    """A study's time below zero made its share of the devices one below zero, the least of all."""
    busy, idle = submit(ctx, "busy"), submit(ctx, "idle")
    Trainer(ctx, slots=4).lease()
    clock.advance(-3600)
    (leased,) = Trainer(ctx, slots=1).lease()
    assert (busy.id, leased.study_id) == (1, idle.id)


def test_only_tasks_that_the_worker_has(ctx: Context) -> None:
    submit(ctx, task={"name": "digits_cnn"})
    assert Trainer(ctx).lease() == []


def test_enqueued_trials_run_first_and_count(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 5, "epochs": 1})
    given = {"lr": 0.002, "batch_size": 32}
    (queued,) = service.enqueue(ctx, study.id, [given], actor="anna")
    assert (queued.origin, queued.state) == ("enqueued", "waiting")
    trainer = Trainer(ctx, slots=1)
    (first,) = trainer.lease()
    assert first.trial_id == queued.id
    assert first.config == {"optimizer": "adamw", **given}
    trainer.work()
    assert service.show_study(ctx, study.id).counts.complete == 5
    with pytest.raises(Conflict):
        service.enqueue(ctx, study.id, [given])


def test_an_enqueued_trial_must_be_a_point_of_the_space(ctx: Context) -> None:
    study = submit(ctx)
    with pytest.raises(InvalidInput) as caught:
        service.enqueue(ctx, study.id, [{"lr": 0.001, "batch_size": 32}, {"lr": 5.0}])
    assert caught.value.field.startswith("configs[1].")
    assert service.show_study(ctx, study.id).counts.total == 0


def test_enqueueing_beyond_the_budget_is_refused(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 1})
    config = {"lr": 0.001, "batch_size": 32}
    with pytest.raises(Conflict, match="room for 2 more"):
        service.enqueue(ctx, study.id, [config] * 3)


def test_a_few_trials_are_prepared_for_workers_with_room(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 100, "epochs": 1})
    service.look_ahead(ctx)
    assert service.show_study(ctx, study.id).counts.waiting == 0
    trainer = Trainer(ctx, slots=6)
    for _ in range(2):
        service.look_ahead(ctx)
        assert service.show_study(ctx, study.id).counts.waiting == 4
    assert len(trainer.lease()) == 6
    service.look_ahead(ctx)
    assert service.show_study(ctx, study.id).counts.waiting == 0


def test_a_restarted_server_goes_on(ctx: Context, database_url: str, clock: Clock) -> None:
    study = submit(ctx, pruner="asha", budget={"trials": 20, "epochs": 9})
    trainer = Trainer(ctx, slots=4)
    trainer.lease()
    for _ in range(6):
        trainer.round()
    acknowledged = {
        t.id: len(service.measurements(ctx, t.id)) for t in service.list_trials(ctx, study.id).items
    }
    ctx.close()
    again = Context.open(database_url, now=clock)
    trainer.ctx = again
    for trial_id, points in acknowledged.items():
        assert len(service.measurements(again, trial_id)) == points
    trainer.work()
    done = service.show_study(again, study.id)
    assert done.state == "completed"
    assert done.counts.complete + done.counts.pruned == 20
    again.close()


def test_the_same_suggestions_whoever_asks(ctx: Context) -> None:
    params: list[list[Any]] = []
    for name, sizes in (("alone", [6]), ("crowd", [1, 2, 3])):
        study = submit(ctx, name, sampler={"name": "random", "seed": 3})
        for size in sizes:
            trainer = Trainer(ctx, slots=size, name=f"{name}{size}")
            leased = service.lease(ctx, trainer.id, LeaseRequest(k=size)).leased
            assert len(leased) == size
        params.append([t.params for t in service.list_trials(ctx, study.id).items])
        service.cancel_study(ctx, study.id)
    assert params[0] == params[1]


@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_two_servers_on_one_database_agree(ctx: Context, database_url: str, pruner: str) -> None:
    """Two processes' worth of service, four threads of workers: budgets stay exact."""
    study = submit(
        ctx, space=GRID, sampler="grid", pruner=pruner, budget={"trials": 12, "epochs": 4}
    )
    other = Context.open(database_url, now=ctx.now)
    trainers = [Trainer([ctx, other][i % 2], slots=2, name=f"w{i}") for i in range(4)]
    failures: list[BaseException] = []

    def run(trainer: Trainer) -> None:
        try:
            for _ in range(100):
                if service.show_study(trainer.ctx, study.id).state == "completed":
                    return
                trainer.lease()
                if trainer.held:
                    trainer.round()
                service.tick(trainer.ctx)
                service.look_ahead(trainer.ctx)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(trainer,)) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    other.close()
    assert failures == []
    done = service.show_study(ctx, study.id)
    assert done.state == "completed"
    trials = service.list_trials(ctx, study.id).items
    assert [t.number for t in trials] == list(range(12))
    assert len({(t.config["lr"], t.config["batch_size"]) for t in trials}) == 12
    trained = Counter(pair for t in trainers for pair in t.trained)
    assert max(trained.values()) == 1, "a period was trained by two holders"
    for trial in trials:
        points = service.measurements(ctx, trial.id)
        assert [p.step for p in points] == list(range(1, trial.step + 1))


def test_many_threads_claim_without_sharing(ctx: Context) -> None:
    study = submit(ctx, space=SPACE, budget={"trials": 40, "epochs": 1})
    trainers = [Trainer(ctx, slots=8, name=f"w{i}") for i in range(8)]
    barrier = threading.Barrier(8)

    def claim(trainer: Trainer) -> None:
        barrier.wait()
        trainer.lease(3)
        trainer.lease(5)

    threads = [threading.Thread(target=claim, args=(t,)) for t in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for trainer in trainers:
        trainer.lease()
    held = [i for t in trainers for i in t.held]
    assert len(held) == len(set(held)) == 40
    assert service.show_study(ctx, study.id).counts.running == 40


def test_suggestions_made_while_another_process_paused_the_study_are_not_lost(
    ctx: Context, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite suggestions come before the transaction; what falls between must not count."""
    study = submit(ctx, budget={"trials": 6, "epochs": 1})
    other = Context.open(database_url, now=ctx.now)
    trainer = Trainer(ctx, slots=6)
    suggest = Search.suggest
    paused = []

    def suggest_then_pause(self: Search, k: int, **how: Any) -> Any:
        found = suggest(self, k, **how)
        if found and not paused and ctx.db.embedded:
            paused.append(service.pause_study(other, study.id))
        return found

    monkeypatch.setattr(Search, "suggest", suggest_then_pause)
    first = trainer.lease()
    if paused:
        assert first == []
        service.resume_study(other, study.id)
        trainer.lease()
    assert len(trainer.held) == 6
    trainer.work()
    assert service.show_study(ctx, study.id).counts.complete == 6
    other.close()
