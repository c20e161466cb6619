from __future__ import annotations

import pytest

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.errors import NotFound
from tuner.service import Context


def test_leases_are_stretches_of_time(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, budget={"trials": 3, "epochs": 2})
    trainer = Trainer(ctx, slots=1, name="gpu-0")
    begin = clock.time.timestamp()
    trainer.lease()
    for _ in range(4):
        clock.advance(10)
        trainer.round()
    found = service.timeline(ctx, study.id)
    assert found.workers == {trainer.id: "gpu-0"}
    assert [(s.number, s.outcome) for s in found.spans] == [
        (0, "complete"),
        (1, "complete"),
        (2, "running"),
    ]
    assert [(s.start - begin, s.end and s.end - begin) for s in found.spans] == [
        (0, 20),
        (20, 40),
        (40, None),
    ]
    assert not found.cut
    newest = service.timeline(ctx, study.id, most=2)
    assert newest.cut
    assert [s.number for s in newest.spans] == [2]
    with pytest.raises(NotFound):
        service.timeline(ctx, 999)


def test_a_trial_tells_of_its_attempts(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 2})
    silent = Trainer(ctx, slots=2, name="silent")
    silent.lease()
    clock.run(1000, ctx)
    Trainer(ctx, slots=2, name="steady").work()
    trial = service.list_trials(ctx, study.id).items[0]
    told = service.trial_events(ctx, trial.id)
    assert [(e.what, e.worker, e.attempt, e.detail) for e in told] == [
        ("created", None, 1, "sampled"),
        ("leased", "silent", 1, None),
        ("waiting", "silent", 2, "lease_expired"),
        ("leased", "steady", 2, None),
        ("complete", "steady", 2, None),
    ]
    assert [e.at for e in told] == sorted(e.at for e in told)
    lost = [s for s in service.timeline(ctx, study.id).spans if s.outcome == "waiting"]
    assert len(lost) == 2


def test_a_trial_of_ones_own_loop_names_no_worker(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 1, "epochs": 1})
    (asked,) = service.ask(ctx, study.id, actor="ada")
    service.tell(ctx, asked.trial_id, asked.token, state="fail", reason="my own fault")
    told = service.trial_events(ctx, asked.trial_id)
    assert [(e.what, e.worker, e.detail) for e in told] == [
        ("created", None, "asked"),
        ("leased", "own loop", None),
        ("fail", None, "my own fault"),
    ]
    (span,) = service.timeline(ctx, study.id).spans
    assert (span.worker_id, span.outcome) == (None, "fail")
    with pytest.raises(NotFound):
        service.trial_events(ctx, 999)
