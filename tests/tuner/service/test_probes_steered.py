"""Range tests of studies that somebody stops, pauses, changes or adds trials to meanwhile."""

from __future__ import annotations

from tests.tuner.service.probing import auto, given, lrs, measure, range_of
from tests.tuner.service.simulation import SPACE, Trainer, submit
from tuner import service
from tuner.protocol import Heartbeat, LeaseRequest, Measured
from tuner.service import Context, StudyPatch
from tuner.spec import StudySpec


class TestSteering:
    def test_a_cancelled_or_stopped_study_needs_none(self, ctx: Context) -> None:
        for name, end in (("a", service.cancel_study), ("b", service.stop_study)):
            study = auto(ctx, name)
            worker = Trainer(ctx, name=name)
            probe = given(ctx, worker)
            assert end(ctx, study.id).state in ("cancelled", "completed")
            assert range_of(ctx, study).state == "skipped"
            beat = Heartbeat(probes={study.id: probe.token})
            assert service.heartbeat(ctx, worker.id, beat).drop_probes == [study.id]
            measure(ctx, worker, probe)
            assert range_of(ctx, study).state == "skipped"

    def test_a_paused_study_lets_it_end_and_starts_nothing(self, ctx: Context) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        probe = given(ctx, worker)
        service.pause_study(ctx, study.id)
        measure(ctx, worker, probe)
        assert range_of(ctx, study).state == "measured"
        assert worker.lease() == []
        service.resume_study(ctx, study.id)
        assert len(worker.lease()) == 4

    def test_a_study_paused_before_gives_none_out(self, ctx: Context) -> None:
        study = auto(ctx)
        service.pause_study(ctx, study.id)
        worker = Trainer(ctx)
        assert service.lease(ctx, worker.id, LeaseRequest(k=4)).probe is None
        service.resume_study(ctx, study.id)
        given(ctx, worker)

    def test_a_loop_of_the_users_own_does_not_wait_for_it(self, ctx: Context) -> None:
        study = auto(ctx)
        (asked,) = service.ask(ctx, study.id)
        assert range_of(ctx, study).state == "skipped"
        service.report_trial(ctx, asked.trial_id, asked.token, measured(1))
        again = auto(ctx, "again")
        worker = Trainer(ctx)
        probe = given(ctx, worker)
        assert service.ask(ctx, again.id)
        measure(ctx, worker, probe)
        assert range_of(ctx, again).state == "skipped"

    def test_enqueued_trials_stay_inside(self, ctx: Context) -> None:
        study = auto(ctx)
        config = {**service.preview(ctx, StudySpec.parse(study.spec)).samples[0], "lr": 0.09}
        service.enqueue(ctx, study.id, [config])
        worker = Trainer(ctx)
        probe = given(ctx, worker)
        measure(ctx, worker, probe)
        found = range_of(ctx, study)
        assert found.high == 0.09
        assert any("enqueued" in why for why in found.why)
        worker.work()
        assert sorted(lrs(ctx, study))[-1] == 0.09
        assert len(lrs(ctx, study)) == 8

    def test_a_space_that_is_written_by_hand_wins(self, ctx: Context) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        probe = given(ctx, worker)
        wider = {**study.spec["space"], "lr": {**study.spec["space"]["lr"], "high": 1.0}}
        service.update_study(ctx, study.id, StudyPatch(space=wider))
        assert service.show_range(ctx, study.id).state == "skipped"
        measure(ctx, worker, probe)
        assert service.show_study(ctx, study.id).spec["space"]["lr"]["high"] == 1.0
        assert len(worker.lease()) == 4

    def test_after_it_too(self, ctx: Context) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        measure(ctx, worker, given(ctx, worker))
        worker.lease(2)
        wider = {**study.spec["space"], "lr": {**study.spec["space"]["lr"], "low": 1e-9}}
        after = service.update_study(ctx, study.id, StudyPatch(space=wider))
        assert after.range_test is None
        kept = service.show_range(ctx, study.id)
        assert (kept.state, kept.low) == ("measured", 1e-9)
        assert "by hand" in kept.why[-1]
        worker.work()
        assert len(lrs(ctx, study)) == 8

    def test_more_budget_keeps_the_range(self, ctx: Context) -> None:
        study = auto(ctx)
        worker = Trainer(ctx)
        measure(ctx, worker, given(ctx, worker))
        worker.work()
        budget = {"trials": 16, "epochs": 4}
        service.update_study(ctx, study.id, StudyPatch.model_validate({"budget": budget}))
        worker.work()
        found = range_of(ctx, study)
        assert len(lrs(ctx, study)) == 16
        assert all(found.low <= lr <= found.high for lr in lrs(ctx, study))


class TestWithin:
    def test_a_range_that_was_written_is_narrowed(self, ctx: Context) -> None:
        space = {**SPACE, "lr": {**SPACE["lr"], "low": 1e-3, "high": 1e-1}}
        study = submit(ctx, space=space, range_test=True)
        worker = Trainer(ctx)
        measure(ctx, worker, given(ctx, worker))
        found = range_of(ctx, study)
        assert (found.state, found.low) == ("measured", 1e-3)
        assert found.high < 1e-2
        worker.work()
        assert all(1e-3 <= lr <= found.high for lr in lrs(ctx, study))

    def test_and_kept_where_nothing_of_it_would_be_left(self, ctx: Context) -> None:
        space = {**SPACE, "lr": {**SPACE["lr"], "low": 0.5, "high": 5.0}}
        study = submit(ctx, space=space, range_test=True)
        worker = Trainer(ctx)
        measure(ctx, worker, given(ctx, worker))
        found = range_of(ctx, study)
        assert (found.state, found.low, found.high) == ("failed", 0.5, 5.0)
        assert "next to nothing" in found.why[-2]


def measured(step: int) -> Measured:
    return Measured(step=step, metrics={"val_loss": 1.0, "val_accuracy": 0.5})
