"""Range tests before the first trial: one holder, an end whatever happens, budgets untouched."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tuner.service.probing import (
    DROP,
    RUIN,
    auto,
    flat,
    given,
    losses,
    lrs,
    measure,
    range_of,
    say,
    states,
)
from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.advisor.range_test import SEEDS, STEPS
from tuner.errors import InvalidInput, NotFound
from tuner.protocol import Heartbeat, LeaseRequest
from tuner.service import Context


def test_it_comes_before_the_first_trial_and_sets_the_range(ctx: Context) -> None:
    study = auto(ctx)
    assert study.range_test is not None
    assert (study.range_test.state, study.range_test.low) == ("waiting", None)
    worker = Trainer(ctx)
    probe = given(ctx, worker)
    assert (probe.task, probe.seeds, probe.steps) == ("digits", SEEDS, STEPS)
    assert probe.config["batch_size"] == 64
    assert "lr" not in probe.config
    assert range_of(ctx, study).state == "running"
    assert service.show_study(ctx, study.id).state == "running"
    assert lrs(ctx, study) == []
    measure(ctx, worker, probe)
    found = range_of(ctx, study)
    assert found.state == "measured"
    # A third of the drop to a third of the ruin, and by the square root to batch sizes 16 and 256.
    assert found.low == pytest.approx(DROP / 3 / 2, rel=0.8)
    assert found.high == pytest.approx(RUIN / 3 * 2, rel=0.8)
    assert any("a third of it" in why for why in found.why)
    assert any("square-root rule" in why for why in found.why)
    worker.work()
    tried = lrs(ctx, study)
    assert len(tried) == 8
    assert all(found.low <= lr <= found.high for lr in tried)
    assert states(ctx, study) == ["running", "measured"]


def test_the_evidence_is_kept(ctx: Context) -> None:
    study = auto(ctx)
    worker = Trainer(ctx)
    measure(ctx, worker, given(ctx, worker))
    kept = service.show_range(ctx, study.id)
    assert len(kept.lr) == len(kept.loss) == STEPS
    assert kept.loss[-1] is None
    assert kept.lr[0] == 1e-7
    assert kept.drop is not None
    assert kept.divergence is not None
    assert kept.suggestion is not None
    assert kept.drop < kept.suggestion < kept.divergence
    assert kept.config["batch_size"] == 64
    assert (kept.seconds, kept.worker_id, kept.attempt) == (2.5, worker.id, 1)
    assert kept.started_at is not None
    assert kept.finished_at is not None
    with pytest.raises(NotFound):
        service.show_range(ctx, submit(ctx, "plain").id)
    with pytest.raises(NotFound):
        service.show_range(ctx, 99)


def test_the_study_file_stays_as_it_was_accepted(ctx: Context) -> None:
    study = auto(ctx)
    worker = Trainer(ctx)
    measure(ctx, worker, given(ctx, worker))
    after = service.show_study(ctx, study.id)
    assert after.spec == study.spec
    assert after.spec["range_test"] is True


def test_no_budget_counts_it_but_that_of_time(ctx: Context, clock: Clock) -> None:
    study = auto(ctx, budget={"trials": 5, "epochs": 4, "total_epochs": 11})
    worker = Trainer(ctx)
    probe = given(ctx, worker)
    clock.advance(9)
    measure(ctx, worker, probe)
    worker.work()
    after = service.show_study(ctx, study.id)
    assert after.state == "completed"
    assert len(worker.trained) == 11
    assert after.counts.total <= 5
    assert after.device_seconds == pytest.approx(2.5 + 0.5 * 11)
    assert after.active_seconds == pytest.approx(9)
    timed = auto(ctx, "timed", budget={"seconds": 10, "epochs": 4})
    probe = given(ctx, worker)
    clock.advance(11)
    measure(ctx, worker, probe)
    assert worker.lease() == []
    service.tick(ctx)
    ended = service.show_study(ctx, timed.id)
    assert (ended.state, ended.reason, ended.counts.total) == ("completed", "seconds", 0)


def test_one_worker_has_it_and_the_others_wait(ctx: Context) -> None:
    study = auto(ctx)
    first, second = Trainer(ctx), Trainer(ctx, name="second")
    probe = given(ctx, first)
    assert service.lease(ctx, second.id, LeaseRequest(k=4)).probe is None
    service.look_ahead(ctx)  # suggests ahead for whoever is free
    assert second.lease() == []
    assert lrs(ctx, study) == []
    measure(ctx, first, probe)
    assert len(second.lease()) == 4


def test_a_worker_with_trials_of_another_study_takes_it_too(ctx: Context) -> None:
    submit(ctx, "plain", budget={"trials": 20, "epochs": 4})
    worker = Trainer(ctx, slots=2)
    worker.lease()
    study = auto(ctx)
    report = worker.next_report()
    answer = worker.deliver(report.model_copy(update={"refill": 2}))
    assert answer.probe is not None
    assert answer.probe.study_id == study.id
    assert answer.leased == []
    measure(ctx, worker, answer.probe)
    assert range_of(ctx, study).state == "measured"


def test_said_again_it_changes_nothing(ctx: Context) -> None:
    study = auto(ctx)
    worker = Trainer(ctx)
    probe = given(ctx, worker)
    measure(ctx, worker, probe)
    before = service.show_range(ctx, study.id)
    say(ctx, worker, probe, outcome="measured", losses=losses(1e-2, 1.0), seconds=9)
    say(ctx, worker, probe, outcome="failed", reason="late")
    assert service.show_range(ctx, study.id) == before
    assert service.show_study(ctx, study.id).device_seconds == 2.5
    assert states(ctx, study) == ["running", "measured"]


def test_a_request_said_again_is_given_the_same_one(ctx: Context, database_url: str) -> None:
    """Its answer was lost; another server, or another request of the worker, has none to give."""
    other = Context.open(database_url, now=ctx.now)
    auto(ctx)
    worker = Trainer(ctx)
    request = LeaseRequest(k=4)
    first = service.lease(ctx, worker.id, request)
    assert first.probe is not None
    assert service.lease(other, worker.id, request) == first
    assert service.lease(ctx, worker.id, LeaseRequest(k=4)).probe is None
    measure(ctx, worker, first.probe)
    again = service.lease(ctx, worker.id, request)
    assert (again.probe, again.leased) == (None, [])
    other.close()


def test_a_report_said_again_is_given_the_same_one(ctx: Context) -> None:
    submit(ctx, "plain", budget={"trials": 20, "epochs": 4})
    worker = Trainer(ctx, slots=2)
    worker.lease()
    auto(ctx)
    report = worker.next_report().model_copy(update={"refill": 2})
    first = service.report(ctx, worker.id, report)
    assert first.probe is not None
    assert service.report(ctx, worker.id, report) == first


class TestDeath:
    def test_a_holder_that_fell_silent_loses_it_to_another(
        self, ctx: Context, clock: Clock
    ) -> None:
        study = auto(ctx)
        dead, alive = Trainer(ctx, name="dead"), Trainer(ctx)
        lost = given(ctx, dead)
        clock.run(31, ctx)
        assert range_of(ctx, study).state == "waiting"
        probe = given(ctx, alive)
        assert range_of(ctx, study).attempt == 2
        measure(ctx, dead, lost)  # it was only slow, and comes too late
        assert range_of(ctx, study).state == "running"
        measure(ctx, alive, probe)
        assert range_of(ctx, study).state == "measured"
        assert states(ctx, study) == ["running", "waiting", "running", "measured"]

    def test_a_heartbeat_keeps_it(self, ctx: Context, clock: Clock) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        probe = given(ctx, worker)
        beat = Heartbeat(probes={study.id: probe.token})
        for _ in range(4):
            clock.run(20, ctx)
            assert service.heartbeat(ctx, worker.id, beat).drop_probes == []
        assert range_of(ctx, study).state == "running"
        for token in ("not the token", "nicht der Schlüssel", "\x00"):
            wrong = Heartbeat(probes={study.id: token})
            assert service.heartbeat(ctx, worker.id, wrong).drop_probes == [study.id]

    def test_after_too_many_the_study_goes_on_with_its_own_range(
        self, ctx: Context, clock: Clock
    ) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        for _ in range(ctx.settings.max_attempts):
            given(ctx, worker)
            clock.run(31, ctx)
        found = range_of(ctx, study)
        given_range = study.spec["space"]["lr"]
        assert (found.state, found.low, found.high) == (
            "failed",
            given_range["low"],
            given_range["high"],
        )
        assert "lease_expired" in found.why[0]
        spent = service.show_study(ctx, study.id).active_seconds
        clock.run(500, ctx)
        assert service.show_study(ctx, study.id).active_seconds == spent
        worker.work()
        assert len(lrs(ctx, study)) == 8

    def test_a_worker_that_leaves_or_stops_gives_it_back(self, ctx: Context, clock: Clock) -> None:
        study = auto(ctx)
        worker, other = Trainer(ctx), Trainer(ctx, name="other")
        given(ctx, worker)
        clock.advance(3)
        service.leave(ctx, worker.id)
        assert range_of(ctx, study).state == "waiting"
        clock.advance(100)
        probe = given(ctx, other)
        clock.advance(4)
        say(ctx, other, probe, outcome="returned", seconds=1.0)
        clock.advance(100)
        found = range_of(ctx, study)
        assert (found.state, found.attempt) == ("waiting", 1)
        # Its time is that in which somebody was at work.
        assert service.show_study(ctx, study.id).active_seconds == pytest.approx(7)
        assert states(ctx, study) == ["running", "waiting", "running", "waiting"]


class TestFailure:
    def test_a_task_that_fails_leaves_the_range_and_says_so(self, ctx: Context) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        say(ctx, worker, given(ctx, worker), outcome="failed", reason="ValueError: no such file")
        found = range_of(ctx, study)
        assert found.state == "failed"
        assert found.why == ["the range stays as it was submitted: ValueError: no such file"]
        worker.work()
        assert service.show_study(ctx, study.id).state == "completed"

    @pytest.mark.parametrize("curve", [flat(), [[None] * STEPS] * SEEDS])
    def test_curves_that_tell_nothing_leave_the_range(self, ctx: Context, curve: Any) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        say(ctx, worker, given(ctx, worker), outcome="measured", losses=curve)
        found = range_of(ctx, study)
        assert (found.state, found.low) == ("failed", study.spec["space"]["lr"]["low"])
        assert any("never drops" in why for why in found.why)
        told = service.events(ctx, study_id=study.id, limit=1000)[-1]
        assert "never drops" in told.data["reason"]
        assert len(worker.lease()) == 4

    def test_losses_of_another_test_are_refused_and_nothing_is_lost(self, ctx: Context) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        probe = given(ctx, worker)
        for wrong in (losses()[:1], [row[:-1] for row in losses()], []):
            with pytest.raises(InvalidInput, match=f"{SEEDS} rows of {STEPS}") as caught:
                say(ctx, worker, probe, outcome="measured", losses=wrong)
            assert caught.value.field == "probe.losses"
        assert range_of(ctx, study).state == "running"
        measure(ctx, worker, probe)
        assert range_of(ctx, study).state == "measured"

    def test_a_study_that_is_gone_needs_no_report(self, ctx: Context) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        probe = given(ctx, worker)
        service.delete_study(ctx, study.id)
        measure(ctx, worker, probe)
        beat = Heartbeat(probes={study.id: probe.token})
        assert service.heartbeat(ctx, worker.id, beat).drop_probes == [study.id]


def test_without_one_nothing_waits(ctx: Context) -> None:
    study = submit(ctx)
    assert study.range_test is None
    off = auto(ctx, "off", range_test=False)
    assert off.range_test is None
    worker = Trainer(ctx)
    assert len(worker.lease()) == 4


def test_two_servers_give_it_out_once_and_agree_on_the_range(
    ctx: Context, database_url: str, clock: Clock
) -> None:
    other = Context.open(database_url, now=clock)
    study = auto(ctx)
    here, there = Trainer(ctx), Trainer(other, name="there")
    for server in (ctx, other):  # each has a search of the range as submitted
        service.look_ahead(server)
    probe = given(ctx, here)
    assert service.lease(other, there.id, LeaseRequest(k=4)).probe is None
    measure(other, there, probe)  # the token counts, whichever server hears it
    found = range_of(ctx, study)
    assert found == range_of(other, study)
    assert found.state == "measured"
    here.lease(4)
    there.lease(4)
    assert len(lrs(ctx, study)) == 8
    assert all(found.low <= lr <= found.high for lr in lrs(ctx, study))
    other.close()
