"""Reports: what is stored, what is decided, and what a worker without a lease can change."""

from __future__ import annotations

import math
from datetime import timedelta
from functools import partial

import pytest

from tests.tuner.service.simulation import SPACE, Clock, Trainer, parameters, submit
from tuner import service
from tuner.errors import InvalidInput, NotFound
from tuner.protocol import (
    Checkpoint,
    Heartbeat,
    LeaseAnswer,
    LeaseRequest,
    Measured,
    Report,
    ReportAnswer,
    SlotReport,
    WorkerHello,
)
from tuner.service import Context


def test_a_study_runs_to_its_end(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 8, "epochs": 4})
    trainer = Trainer(ctx, slots=3)
    trainer.work()
    done = service.show_study(ctx, study.id)
    assert (done.state, done.counts.complete, done.counts.total) == ("completed", 8, 8)
    assert done.progress == 1.0
    trials = service.list_trials(ctx, study.id).items
    assert [t.number for t in trials] == list(range(8))
    for trial in trials:
        assert trial.step == 4
        assert trial.value == pytest.approx(trainer.loss(trial.config, 4))
        points = service.measurements(ctx, trial.id)
        assert [p.step for p in points] == [1, 2, 3, 4]
        assert points[0].metrics["val_accuracy"] == 0.5
    best = min(trials, key=lambda t: t.value or math.inf)
    assert done.best is not None
    assert done.best.id == best.id
    assert service.best(ctx, study.id, k=3)[0].id == best.id
    assert done.device_seconds == pytest.approx(8 * 4 * 0.5)


def test_every_trial_shares_the_seed_of_the_study(ctx: Context) -> None:
    submit(ctx, seed=7)
    leased = Trainer(ctx).lease()
    assert {(t.seed, t.data_seed) for t in leased} == {(7, 7)}


def test_asha_sets_aside_resumes_and_leaves_none_behind(ctx: Context) -> None:
    study = submit(ctx, pruner="asha", budget={"trials": 30, "epochs": 9})
    trainer = Trainer(ctx, slots=4)
    trainer.work()
    done = service.show_study(ctx, study.id)
    assert done.state == "completed"
    assert done.counts.complete + done.counts.pruned == 30
    assert done.counts.complete >= 1
    assert done.counts.pruned > done.counts.complete
    # Resumed where they stopped: no period was trained twice.
    assert len(trainer.trained) == len(set(trainer.trained))


def test_a_report_repeated_after_a_lost_answer_is_stored_once(ctx: Context) -> None:
    study = submit(ctx)
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    report = trainer.next_report()
    service.report(ctx, trainer.id, report)
    answer = trainer.deliver(report)
    assert [v.action for v in answer.verdicts] == ["continue", "continue"]
    for trial_id in trainer.held:
        assert len(service.measurements(ctx, trial_id)) == 1
        assert service.show_trial(ctx, trial_id).device_seconds == pytest.approx(0.5)
    assert service.show_study(ctx, study.id).counts.total == 2


def test_the_last_report_repeated_changes_nothing(ctx: Context) -> None:
    submit(ctx, budget={"trials": 1, "epochs": 1})
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    report = trainer.next_report()
    assert service.report(ctx, trainer.id, report).verdicts[0].action == "finish"
    before = service.show_trial(ctx, leased.trial_id)
    assert service.report(ctx, trainer.id, report).verdicts[0].action == "finish"
    more = report.slots[0].measurements[0].model_copy(update={"step": 2})
    unheard = report.slots[0].model_copy(update={"measurements": [more]})
    for slot in (unheard, report.slots[0].model_copy(update={"token": "another"})):
        (verdict,) = service.report(ctx, trainer.id, Report(slots=[slot])).verdicts
        assert verdict.action == "lost"
    assert service.show_trial(ctx, leased.trial_id) == before
    assert len(service.measurements(ctx, leased.trial_id)) == 1


def test_who_was_stopped_by_others_has_no_last_word(ctx: Context) -> None:
    submit(ctx)
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    report = trainer.next_report()
    service.report(ctx, trainer.id, report)
    service.stop_trial(ctx, leased.trial_id)
    assert service.report(ctx, trainer.id, report).verdicts[0].action == "lost"


def test_an_old_report_that_arrives_late_takes_nothing_back(ctx: Context) -> None:
    """Delivered once more by the network after the next one: seconds and checkpoint stay."""
    submit(ctx, budget={"trials": 1, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    old = trainer.next_report()
    trainer.deliver(old)
    trainer.round()
    before = service.show_trial(ctx, leased.trial_id)
    assert service.report(ctx, trainer.id, old).verdicts[0].action == "continue"
    assert service.show_trial(ctx, leased.trial_id) == before
    service.leave(ctx, trainer.id)
    (again,) = Trainer(ctx, slots=1, name="other").lease()
    assert again.start == 2


def test_who_lost_the_lease_changes_nothing(ctx: Context, clock: Clock) -> None:
    submit(ctx)
    slow, quick = Trainer(ctx, slots=1, name="slow"), Trainer(ctx, slots=1, name="quick")
    (mine,) = slow.lease()
    slow.round()
    clock.run(31, ctx)
    late = slow.next_report()
    (theirs,) = quick.lease()
    assert theirs.trial_id == mine.trial_id
    assert (theirs.attempt, theirs.start) == (2, 1)
    assert theirs.checkpoint is not None
    assert theirs.token != mine.token
    before = service.show_trial(ctx, mine.trial_id)
    assert slow.deliver(late).verdicts[0].action == "lost"
    beat = Heartbeat(held={mine.trial_id: mine.token})
    assert service.heartbeat(ctx, slow.id, beat).drop == [mine.trial_id]
    assert service.show_trial(ctx, mine.trial_id).worker_id == before.worker_id
    assert len(service.measurements(ctx, mine.trial_id)) == 1
    quick.work()
    slow.work()
    assert service.show_trial(ctx, mine.trial_id).state == "complete"
    assert [p.attempt for p in service.measurements(ctx, mine.trial_id)] == [1, 2, 2, 2]


def test_a_heartbeat_keeps_the_lease(ctx: Context, clock: Clock) -> None:
    submit(ctx)
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    for _ in range(5):
        clock.run(20, ctx)
        beat = Heartbeat(held={leased.trial_id: leased.token})
        assert service.heartbeat(ctx, trainer.id, beat).drop == []
    assert trainer.round().verdicts[0].action == "continue"
    assert service.show_trial(ctx, leased.trial_id).attempt == 1


def test_a_heartbeat_tells_the_leases_that_are_lost_from_those_that_live_on(
    ctx: Context, clock: Clock
) -> None:
    submit(ctx)
    trainer = Trainer(ctx, slots=3)
    kept, lost, other = trainer.lease()
    clock.run(20, ctx)
    held = {kept.trial_id: kept.token, lost.trial_id: "another's", 10_000: kept.token}
    answer = service.heartbeat(ctx, trainer.id, Heartbeat(held=held))
    assert answer.drop == sorted([lost.trial_id, 10_000])
    clock.run(20, ctx)  # the leases end 30 seconds after they were last renewed
    states = {t.trial_id: service.show_trial(ctx, t.trial_id).attempt for t in (kept, lost, other)}
    assert states == {kept.trial_id: 1, lost.trial_id: 2, other.trial_id: 2}


def test_a_worker_that_was_just_heard_of_is_not_written_down_again(
    ctx: Context, clock: Clock
) -> None:
    submit(ctx)
    trainer = Trainer(ctx, slots=1)
    trainer.lease()
    heard = [ctx.now()]
    for seconds in (4, 0, 2, 4):
        clock.advance(seconds)
        trainer.round()
        heard.append(service.list_workers(ctx)[0].heartbeat_at)
    first, second = heard[0], heard[0] + timedelta(seconds=6)
    assert heard == [first, first, first, second, second]


def test_a_worker_that_was_forgotten_is_told_so(ctx: Context) -> None:
    for call in (
        lambda: service.lease(ctx, 77, LeaseRequest(k=1)),
        lambda: service.report(ctx, 77, Report(slots=[])),
        lambda: service.heartbeat(ctx, 77, Heartbeat()),
    ):
        with pytest.raises(NotFound, match="worker 77"):
            call()


def test_a_trial_that_ends_its_workers_fails(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, budget={"trials": 1, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    for attempt in (1, 2, 3):
        (leased,) = trainer.lease()
        assert leased.attempt == attempt
        trainer.held.clear()
        clock.run(31, ctx)
    trial = service.show_trial(ctx, leased.trial_id)
    assert (trial.state, trial.reason) == ("fail", "lease_expired")
    assert trainer.lease() == []
    done = service.show_study(ctx, study.id)
    assert (done.state, done.counts.fail) == ("failed", 1)


def taken_away(trainer: Trainer, clock: Clock, report: Report | None = None) -> int:
    """The trainer's node goes, after a last report if there is one; the attempt that ended so."""
    (slot,) = trainer.held.values()
    if report is not None:
        trainer.deliver(report)
    trainer.held.clear()
    clock.run(31, trainer.ctx)
    return slot.leased.attempt


@pytest.mark.parametrize("saved", [True, False])
def test_a_trial_whose_workers_are_taken_away_goes_on_as_long_as_it_comes_further(
    ctx: Context, clock: Clock, saved: bool
) -> None:
    """With checkpoints from where it was; without any it comes further each time."""
    study = submit(ctx, budget={"trials": 1, "epochs": 9})
    trainer = Trainer(ctx, slots=1)
    for attempt in range(1, 9):
        (leased,) = trainer.lease()
        assert leased.start == (attempt - 1 if saved else 0)
        while trainer.held[leased.trial_id].step < attempt - 1:
            trainer.deliver(unsaved(trainer.next_report()))
        report = trainer.next_report()
        assert taken_away(trainer, clock, report if saved else unsaved(report)) == attempt
    trainer.work()
    (trial,) = service.list_trials(ctx, study.id).items
    assert (trial.state, trial.attempt, trial.step) == ("complete", 9, 9)


def unsaved(report: Report) -> Report:
    """The report without its checkpoints."""
    slots = [slot.model_copy(update={"checkpoint": None}) for slot in report.slots]
    return report.model_copy(update={"slots": slots})


def test_a_trial_that_fails_has_no_values_of_an_attempt_that_was_lost(
    ctx: Context, clock: Clock
) -> None:
    """Optuna takes no failed trial with values: neither its figures nor a copy of the study."""
    study = submit(ctx, budget={"trials": 2, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    trainer.lease()
    assert taken_away(trainer, clock, unsaved(trainer.next_report())) == 1
    service.stop_study(ctx, study.id)
    (trial,) = service.list_trials(ctx, study.id).items
    assert (trial.state, trial.reason, trial.step) == ("fail", "cancelled", 0)
    assert service.figure(ctx, study.id, "timeline")["data"]
    assert [t.values for t in service.frozen_trials(ctx, study.id)] == [None]


@pytest.mark.parametrize("saved", [1, 2, None])
def test_a_trial_that_ends_its_workers_where_it_has_been_before_fails(
    ctx: Context, clock: Clock, saved: int | None
) -> None:
    """Each attempt goes on from the last checkpoint to the same step, and dies there."""
    submit(ctx, budget={"trials": 1, "epochs": 9})
    trainer = Trainer(ctx, slots=1)
    for attempt in (1, 2, 3):
        (leased,) = trainer.lease()
        assert leased.attempt == attempt
        while trainer.held[leased.trial_id].step < 3:
            report = trainer.next_report()
            step = trainer.held[leased.trial_id].step
            trainer.deliver(report if step == saved else unsaved(report))
        taken_away(trainer, clock)
    assert service.show_trial(ctx, leased.trial_id).reason == "lease_expired"


def test_checkpoints_in_the_middle_of_a_step_are_further_too(ctx: Context, clock: Clock) -> None:
    submit(ctx, budget={"trials": 1, "epochs": 2})
    trainer = Trainer(ctx, slots=1)

    def within(samples: int) -> Report:
        (slot,) = trainer.held.values()
        saved = Checkpoint(uri=f"memory:{samples}", step=0, samples=samples)
        trial = slot.leased
        report = SlotReport(trial_id=trial.trial_id, token=trial.token, checkpoint=saved)
        return Report(slots=[report])

    for samples in (100, 200, 300, 400, 500, 500):
        (leased,) = trainer.lease()
        taken_away(trainer, clock, within(samples))
    assert leased.checkpoint is not None
    assert (leased.attempt, leased.start, leased.checkpoint.samples) == (6, 0, 500)
    # The last came no further, and neither does the next: with the one before that makes three.
    (leased,) = trainer.lease()
    taken_away(trainer, clock, within(500))
    trial = service.show_trial(ctx, leased.trial_id)
    assert (trial.state, trial.reason, trial.attempt) == ("fail", "lease_expired", 7)


def test_a_worker_that_leaves_hands_its_trials_on(ctx: Context) -> None:
    submit(ctx, budget={"trials": 2, "epochs": 4})
    first, second = Trainer(ctx, slots=2, name="first"), Trainer(ctx, slots=2, name="second")
    first.lease()
    first.round()
    service.leave(ctx, first.id)
    assert {w.name: w.state for w in service.list_workers(ctx)}["first"] == "gone"
    taken = second.lease()
    assert {(t.attempt, t.start) for t in taken} == {(1, 1)}


def test_a_worker_that_left_long_ago_is_not_listed_but_still_has_its_name(
    ctx: Context, clock: Clock
) -> None:
    submit(ctx, budget={"trials": 2, "epochs": 4})
    old, idle = Trainer(ctx, slots=1, name="old"), Trainer(ctx, slots=1, name="idle")
    old.lease()
    service.leave(ctx, old.id)
    clock.advance(8 * 86_400)
    service.heartbeat(ctx, idle.id, Heartbeat())
    assert [w.name for w in service.list_workers(ctx)] == ["idle"]
    assert service.worker_names(ctx, [old.id]) == {old.id: "old"}


def test_a_returned_trial_goes_on_from_its_checkpoint_in_the_same_attempt(ctx: Context) -> None:
    submit(ctx, budget={"trials": 1, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    trainer.lease()
    report = trainer.next_report()
    slot = report.slots[0].model_copy(update={"outcome": "returned"})
    answer = service.report(ctx, trainer.id, Report(slots=[slot], refill=-1))
    assert answer.verdicts[0].action == "pause"
    assert answer.leased == []
    trainer.held.clear()
    (again,) = trainer.lease()
    assert (again.attempt, again.start) == (1, 1)


def test_steps_that_are_trained_again_are_another_attempt(ctx: Context) -> None:
    """Their points would stay those of the first time, and the value would be of the second."""
    study = submit(ctx, budget={"trials": 1, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    trainer.deliver(unsaved(trainer.next_report()))
    service.pause_study(ctx, study.id)
    trainer.deliver(unsaved(trainer.next_report()))
    service.resume_study(ctx, study.id)
    (again,) = trainer.lease()
    assert (again.trial_id, again.attempt, again.start) == (leased.trial_id, 2, 0)
    trainer.round()
    assert (2, 1) in [(p.attempt, p.step) for p in service.measurements(ctx, leased.trial_id)]


def test_device_seconds_are_counted_once_over_pauses_and_losses(ctx: Context, clock: Clock) -> None:
    """Half a second a step: four that count, after a return, and one that was lost."""
    study = submit(ctx, budget={"trials": 1, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    trainer.lease()
    slot = trainer.next_report().slots[0].model_copy(update={"outcome": "returned"})
    service.report(ctx, trainer.id, Report(slots=[slot], refill=-1))
    trainer.held.clear()
    (leased,) = trainer.lease()
    assert leased.device_seconds == pytest.approx(0.5)
    taken_away(trainer, clock, unsaved(trainer.next_report()))
    (leased,) = trainer.lease()
    assert (leased.attempt, leased.start, leased.device_seconds) == (2, 1, pytest.approx(1.0))
    trainer.work()
    assert service.show_trial(ctx, leased.trial_id).device_seconds == pytest.approx(2.5)
    assert service.show_study(ctx, study.id).device_seconds == pytest.approx(2.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_diverged_trial_fails_and_keeps_its_curve(ctx: Context, bad: float | None) -> None:
    study = submit(ctx, sampler="tpe", budget={"trials": 3, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    trainer.round()
    report = trainer.next_report()
    measured = report.slots[0].measurements[0].model_copy(update={"metrics": {"val_loss": bad}})
    slot = report.slots[0].model_copy(update={"measurements": [measured]})
    answer = trainer.deliver(Report(slots=[slot]))
    assert (answer.verdicts[0].action, answer.verdicts[0].reason) == ("stop", "diverged")
    trial = service.show_trial(ctx, leased.trial_id)
    assert (trial.state, trial.reason, trial.values) == ("fail", "diverged", None)
    points = service.measurements(ctx, leased.trial_id)
    assert points[0].value is not None
    assert points[1].value is None
    trainer.work()
    done = service.show_study(ctx, study.id)
    assert (done.state, done.counts.fail, done.counts.complete) == ("completed", 1, 2)


def test_a_step_that_diverged_is_of_the_budget_too(ctx: Context) -> None:
    study = submit(ctx, budget={"total_epochs": 11, "epochs": 4})
    Trainer(ctx, slots=1, loss=lambda _, step: math.nan if step == 3 else 1 / step).work()
    assert service.show_study(ctx, study.id).reason == "total_epochs"
    assert [t.step for t in service.list_trials(ctx, study.id, sort="number").items] == [3, 3, 3, 2]


def test_a_copy_of_what_could_not_be_saved_begins_at_the_start(ctx: Context) -> None:
    pruner = {"name": "pbt", "population": 4, "interval_steps": 2}
    study = submit(ctx, sampler="random", pruner=pruner, budget={"trials": 8, "epochs": 8})
    trainer = Trainer(ctx, slots=4)
    trainer.lease()
    while trainer.held:
        trainer.deliver(unsaved(trainer.next_report()))
    assert service.show_study(ctx, study.id).state == "completed"
    copies = [t for t in service.list_trials(ctx, study.id).items if t.number >= 4]
    assert copies
    for copy in copies:
        assert min(step for number, step in trainer.trained if number == copy.number) == 1
        assert service.measurements(ctx, copy.id)[0].step == 1


def test_out_of_memory_is_tried_once_more(ctx: Context) -> None:
    submit(ctx, budget={"trials": 2, "epochs": 2})
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    failed = SlotReport(trial_id=leased.trial_id, token=leased.token, outcome="fail", reason="oom")
    answer = trainer.deliver(Report(slots=[failed]))
    (again,) = answer.leased
    assert (again.trial_id, again.attempt) == (leased.trial_id, 2)
    # Who is told to stop removes what it takes to go on.
    assert [v.action for v in answer.verdicts] == ["pause"]
    failed = failed.model_copy(update={"token": again.token})
    answer = trainer.deliver(Report(slots=[failed]))
    assert [v.action for v in answer.verdicts] == ["stop"]
    trial = service.show_trial(ctx, leased.trial_id)
    assert (trial.state, trial.reason) == ("fail", "oom")
    trainer.work()
    assert service.show_study(ctx, 1).state == "completed"


def test_out_of_memory_where_a_trial_was_to_stop_anyway_is_no_reason_to_try_again(
    ctx: Context,
) -> None:
    """The search has let go of it: handed back, nobody would ever be given it."""
    study = submit(ctx, pruner={"name": "threshold", "upper": 0.0})
    trainer = Trainer(ctx, slots=1)
    trainer.lease()
    report = trainer.next_report()
    slots = [slot.model_copy(update={"outcome": "fail", "reason": "oom"}) for slot in report.slots]
    (verdict,) = trainer.deliver(report.model_copy(update={"slots": slots})).verdicts
    assert (verdict.action, verdict.reason) == ("stop", "1.03 is above 0")
    trainer.work()
    assert service.show_study(ctx, study.id).counts.pruned == 8


def test_an_error_text_is_kept(ctx: Context) -> None:
    submit(ctx)
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    failed = SlotReport(
        trial_id=leased.trial_id, token=leased.token, outcome="fail", reason="ValueError: no"
    )
    answer = trainer.deliver(Report(slots=[failed]))
    assert answer.verdicts[0].action == "stop"
    assert service.show_trial(ctx, leased.trial_id).reason == "ValueError: no"
    assert len(answer.leased) == 1


def test_a_report_without_the_objective_is_refused_whole(ctx: Context) -> None:
    submit(ctx)
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    good = trainer.next_report()
    wrong = good.slots[1].model_copy(
        update={"measurements": [Measured(step=1, metrics={"accuracy": 0.5})]}
    )
    with pytest.raises(InvalidInput, match="lacks val_loss") as caught:
        service.report(ctx, trainer.id, Report(slots=[good.slots[0], wrong]))
    assert caught.value.field == "slots[1].measurements[0].metrics"
    for trial_id in trainer.held:
        assert service.measurements(ctx, trial_id) == []
    assert trainer.deliver(good).verdicts[0].action == "continue"


def test_a_step_beyond_the_training_is_refused(ctx: Context) -> None:
    submit(ctx)
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    slot = SlotReport(
        trial_id=leased.trial_id,
        token=leased.token,
        measurements=[Measured(step=5, metrics={"val_loss": 1.0})],
    )
    with pytest.raises(InvalidInput, match="beyond the training's 4 steps"):
        service.report(ctx, trainer.id, Report(slots=[slot]))


def test_several_measurements_of_one_trial_in_one_report(ctx: Context) -> None:
    submit(ctx, budget={"trials": 1, "epochs": 4})
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    slot = SlotReport(
        trial_id=leased.trial_id,
        token=leased.token,
        measurements=[Measured(step=s, metrics={"val_loss": 1.0 / s}) for s in (2, 1, 4, 3)],
    )
    answer = service.report(ctx, trainer.id, Report(slots=[slot]))
    assert answer.verdicts[0].action == "finish"
    trial = service.show_trial(ctx, leased.trial_id)
    assert (trial.value, trial.step) == (0.25, 4)


@pytest.mark.parametrize("size", [math.nan, math.inf, None, -math.inf, 3.0])
def test_a_constraint_metric_that_is_no_number_breaks_it(ctx: Context, size: float | None) -> None:
    study = submit(
        ctx,
        budget={"trials": 1, "epochs": 1},
        constraint={"metric": "val_accuracy", "max": 4.0},
    )
    trainer = Trainer(ctx, slots=1)
    (leased,) = trainer.lease()
    measured = Measured(step=1, metrics={"val_loss": 0.1, "val_accuracy": size})
    slot = SlotReport(trial_id=leased.trial_id, token=leased.token, measurements=[measured])
    service.report(ctx, trainer.id, Report(slots=[slot]))
    kept = size in (3.0, -math.inf)
    trial = service.show_trial(ctx, leased.trial_id)
    assert trial.constraint is not None
    assert math.isfinite(trial.constraint)
    assert (trial.constraint <= 0) == kept
    assert len(service.best(ctx, study.id)) == kept


@pytest.mark.parametrize("pruner", ["asha", "median", "pbt"])
def test_a_trial_at_the_end_of_its_own_training_is_complete_however_bad(
    ctx: Context, pruner: str
) -> None:
    settings = {
        "asha": {"min_resource": 2, "reduction_factor": 2},
        "median": {"n_startup_trials": 1, "n_warmup_steps": 2},
        "pbt": {"population": 4, "interval_steps": 2},
    }
    space = {**SPACE, "epochs": {"type": "categorical", "choices": [2, 8]}}
    study = submit(
        ctx,
        space=space,
        sampler="manual",
        pruner={"name": pruner, **settings[pruner]},
        budget={"trials": 5, "epochs": 8},
    )
    long = [{"lr": 1e-3, "batch_size": 16, "epochs": 8}] * 3
    service.enqueue(ctx, study.id, [*long, {"lr": 1e-1, "batch_size": 16, "epochs": 2}])
    trainer = Trainer(ctx, slots=4)
    trainer.lease()
    trainer.round()
    trainer.round()
    bad = service.list_trials(ctx, study.id).items[3]
    assert (bad.state, bad.step, bad.reason) == ("complete", 2, None)


def test_trials_of_several_studies_in_one_report(ctx: Context) -> None:
    first, second = submit(ctx, "first"), submit(ctx, "second")
    trainer = Trainer(ctx, slots=6)
    trainer.lease(3)
    trainer.take(service.lease(ctx, trainer.id, LeaseRequest(k=3, prefer=second.id)).leased)
    trainer.work()
    for study in (first, second):
        assert service.show_study(ctx, study.id).counts.complete == 8


def test_an_unknown_trial_is_lost(ctx: Context) -> None:
    trainer = Trainer(ctx)
    slot = SlotReport(trial_id=99, token="x")
    assert service.report(ctx, trainer.id, Report(slots=[slot])).verdicts[0].action == "lost"


def test_a_drained_worker_gets_no_more(ctx: Context) -> None:
    submit(ctx)
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    assert service.drain_worker(ctx, trainer.id, actor="anna").state == "draining"
    while trainer.held:
        answer = trainer.round()
        assert answer.drain
        assert answer.leased == []
    assert service.lease(ctx, trainer.id, LeaseRequest(k=1)).drain


@pytest.mark.parametrize("what", ["lease", "report"])
def test_a_worker_drained_before_it_heard_the_answer_is_given_what_was_in_it(
    ctx: Context, what: str
) -> None:
    submit(ctx, budget={"trials": 4, "epochs": 1})
    trainer = Trainer(ctx, slots=2)
    ask: partial[LeaseAnswer] | partial[ReportAnswer]
    if what == "lease":
        ask = partial(service.lease, ctx, trainer.id, LeaseRequest(k=2))
    else:
        trainer.lease()
        ask = partial(service.report, ctx, trainer.id, trainer.next_report())
    given = {trial.trial_id for trial in ask().leased}
    assert len(given) == 2
    service.drain_worker(ctx, trainer.id)
    again = ask()
    assert {trial.trial_id for trial in again.leased} == given
    assert again.drain


def test_a_drained_worker_that_was_silent_is_still_drained(ctx: Context, clock: Clock) -> None:
    submit(ctx)
    drained, other = Trainer(ctx, name="drained"), Trainer(ctx, name="other")
    service.drain_worker(ctx, drained.id, actor="anna")
    clock.run(120, ctx)
    assert {w.state for w in service.list_workers(ctx)} == {"gone"}
    assert service.heartbeat(ctx, drained.id, Heartbeat()).drain
    assert not service.heartbeat(ctx, other.id, Heartbeat()).drain
    states = {w.name: w.state for w in service.list_workers(ctx)}
    assert states == {"drained": "draining", "other": "active"}


@pytest.mark.parametrize("turned", [False, True])
def test_a_rounds_slots_are_judged_together_whatever_their_order(
    ctx: Context, turned: bool
) -> None:
    """Of nine trials at the first rung, the best three go on; not whoever was named first."""
    submit(ctx, pruner="asha", budget={"trials": 9, "epochs": 9})
    trainer = Trainer(ctx, slots=9)
    trainer.lease()
    report = trainer.next_report()
    slots = sorted(report.slots, key=lambda s: s.measurements[0].metrics["val_loss"] or 0.0)
    ranked = [s.trial_id for s in slots]
    report = report.model_copy(update={"slots": slots[::-1] if turned else slots, "refill": 0})
    verdicts = service.report(ctx, trainer.id, report).verdicts
    assert {v.trial_id for v in verdicts if v.action == "continue"} == set(ranked[:3])


def test_workers_that_are_gone_cost_no_parameter_each(ctx: Context) -> None:
    """PostgreSQL takes 65,535, and hosts that cannot train may make so many in a week."""
    for i in range(40):
        hello = WorkerHello(name=f"w{i}", tasks=["digits"])
        worker_id = service.register_worker(ctx, hello).worker_id
        if i:
            service.leave(ctx, worker_id)
    with parameters(ctx) as counts:
        assert len(service.list_workers(ctx)) == 40
    assert max(counts) < 40
