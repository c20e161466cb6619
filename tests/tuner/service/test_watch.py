"""Servers that were away, or whose clock was set: who lives keeps what it holds."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.protocol import Heartbeat
from tuner.service import Context
from tuner.service.context import LONGEST_ASK_SECONDS
from tuner.storage import trials

LEASE = 30


def beat(trainer: Trainer) -> list[int]:
    """Shows life; the trials that the worker must drop."""
    held = {i: slot.leased.token for i, slot in trainer.held.items()}
    return service.heartbeat(trainer.ctx, trainer.id, Heartbeat(held=held)).drop


def attempts(ctx: Context, study: int) -> list[int]:
    return [trial.attempt for trial in service.list_trials(ctx, study).items]


@pytest.mark.parametrize("away", [LEASE / 2 + 1, 10 * LEASE, 86_400])
def test_a_server_that_was_away_waits_for_the_living(
    ctx: Context, clock: Clock, away: float
) -> None:
    """Stopped, cut off from its database, or its clock set: nobody could have shown life."""
    study = submit(ctx)
    living, dead = Trainer(ctx, slots=2, name="living"), Trainer(ctx, slots=2, name="dead")
    living.lease()
    dead.lease()
    clock.run(LEASE, ctx)
    assert beat(living) == []
    clock.advance(away)
    clock.run(5, ctx)
    assert beat(living) == []
    clock.run(LEASE - 6, ctx)
    assert beat(living) == []
    assert attempts(ctx, study.id) == [1, 1, 1, 1]
    clock.run(LEASE, ctx)
    assert sorted(attempts(ctx, study.id)) == [1, 1, 2, 2]
    assert beat(dead) == sorted(dead.held)
    living.work()
    assert service.show_study(ctx, study.id).counts.complete == 8


def test_a_new_server_waits_for_the_living_of_the_old(
    ctx: Context, clock: Clock, database_url: str
) -> None:
    study = submit(ctx)
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    clock.run(LEASE - 1, ctx)
    ctx.close()
    clock.advance(LEASE)
    trainer.ctx = Context.open(database_url, now=clock)
    clock.run(LEASE - 1, trainer.ctx)
    assert beat(trainer) == []
    clock.run(LEASE + 6, trainer.ctx)
    assert attempts(trainer.ctx, study.id) == [2, 2]
    trainer.ctx.close()


def test_one_of_two_servers_that_listened_takes_from_the_silent(
    ctx: Context, clock: Clock, database_url: str
) -> None:
    study = submit(ctx)
    Trainer(ctx, slots=2).lease()
    other = Context.open(database_url, now=clock)
    clock.run(LEASE + 5, other)
    assert attempts(ctx, study.id) == [2, 2]
    other.close()


@pytest.mark.parametrize("back", [LEASE, 3600, 86_400])
def test_a_clock_set_back_keeps_no_trial_from_the_living(
    ctx: Context, clock: Clock, back: float
) -> None:
    """What a dead worker holds is not held until the time that the clock once showed."""
    study = submit(ctx)
    living, dead = Trainer(ctx, slots=2, name="living"), Trainer(ctx, slots=2, name="dead")
    living.lease()
    dead.lease()
    clock.run(LEASE / 2, ctx)
    clock.advance(-back)
    for _ in range(5):
        clock.run(LEASE / 2, ctx)
        assert beat(living) == []
    assert sorted(attempts(ctx, study.id)) == [1, 1, 2, 2]
    living.work()
    done = service.show_study(ctx, study.id)
    assert done.counts.complete == 8
    assert done.active_seconds >= 0


def test_an_asked_trial_outlives_the_leases_of_workers(ctx: Context, clock: Clock) -> None:
    """Its lease is long, not wrong; unless the clock was set back by more than that."""
    study = submit(ctx)
    (trial,) = service.ask(ctx, study.id, 1)
    clock.run(60, ctx)
    (shown,) = service.list_trials(ctx, study.id).items
    assert (shown.state, shown.attempt) == ("running", 1)
    clock.advance(-30 * 86_400)
    service.tick(ctx)
    with ctx.db.session() as session:
        row = trials.get(session, trial.trial_id)
    assert row.lease_expires_at == clock() + timedelta(seconds=LONGEST_ASK_SECONDS)
