"""What is counted over everything, against what was done."""

from __future__ import annotations

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.protocol import Heartbeat
from tuner.service import Context
from tuner.storage.models import STUDY_STATES, WORKER_STATES


def test_an_empty_service(ctx: Context) -> None:
    found = service.gauges(ctx)
    assert dict(found.studies) == dict.fromkeys(STUDY_STATES, 0)
    assert set(found.trials.values()) == {0}
    assert dict(found.workers) == dict.fromkeys(WORKER_STATES, 0)
    assert dict(found.leases) == {"worker": 0, "loop": 0}
    assert (found.queue_depth, found.slots, found.samples_per_second) == (0, 0, 0.0)
    assert found.undelivered == 0


def test_it_counts_what_is_there(ctx: Context, clock: Clock) -> None:
    done = submit(ctx, "done", budget={"trials": 3, "epochs": 2})
    trainer = Trainer(ctx, slots=2)
    trainer.work()
    assert service.gauges(ctx).trials["complete"] == 3
    open_study = submit(ctx, "open", budget={"trials": 20, "epochs": 2})
    trainer.lease()
    service.ask(ctx, open_study.id, 3)
    beat = Heartbeat(status={"samples_per_second": 100.5, "engine": "looped"})
    service.heartbeat(ctx, trainer.id, beat)
    liar = Trainer(ctx, slots=5, name="liar")
    service.heartbeat(ctx, liar.id, Heartbeat(status={"samples_per_second": "many"}))
    service.look_ahead(ctx)
    paused = submit(ctx, "paused")
    service.pause_study(ctx, paused.id)
    found = service.gauges(ctx)
    assert (found.studies["completed"], found.studies["running"], found.studies["paused"]) == (
        1,
        1,
        1,
    )
    assert dict(found.leases) == {"worker": 2, "loop": 3}
    assert found.trials["running"] == 5
    assert found.queue_depth == found.trials["waiting"] > 0
    assert (found.workers["active"], found.slots) == (2, 7)
    assert found.samples_per_second == 100.5
    service.cancel_study(ctx, open_study.id)
    assert service.gauges(ctx).queue_depth == 0
    clock.run(3600, ctx)
    found = service.gauges(ctx)
    assert (found.workers["gone"], found.slots, found.samples_per_second) == (2, 0, 0.0)
    assert service.show_study(ctx, done.id).counts.complete == 3


def test_what_was_set_aside_does_not_run(ctx: Context) -> None:
    submit(ctx, pruner="asha", budget={"trials": 9, "epochs": 9})
    trainer = Trainer(ctx, slots=9)
    trainer.lease()
    trainer.round()
    found = service.gauges(ctx)
    assert found.trials["paused"] > 0
    assert found.leases["worker"] == found.trials["running"]
