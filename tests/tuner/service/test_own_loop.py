"""Ask and tell: a user's own loop under the same leases and budgets as workers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.tuner.service.simulation import Clock, Trainer, spec, submit
from tuner import service
from tuner.errors import Conflict, InvalidInput, LeaseLost, NotFound
from tuner.protocol import Measured
from tuner.service import Context
from tuner.spec import StudySpec


def own(ctx: Context, **changes: Any) -> int:
    raw = {
        "name": "loop",
        "space": {"x": {"type": "float", "low": -1.0, "high": 1.0}, "kind": "plain"},
        "objective": {"metric": "score", "direction": "maximize"},
        "sampler": "tpe",
        "pruner": "none",
        "budget": {"trials": 5, "epochs": 3},
    }
    return service.submit(ctx, StudySpec.parse({**raw, **changes})).id


def test_a_loop_of_asks_and_tells(ctx: Context) -> None:
    study_id = own(ctx)
    told = []
    for _ in range(10):
        asked = service.ask(ctx, study_id, 2, actor="anna")
        if not asked:
            break
        for trial in asked:
            assert trial.config["kind"] == "plain"
            score = -(trial.config["x"] ** 2)
            view = service.tell(ctx, trial.trial_id, trial.token, values=score)
            assert (view.state, view.value, view.origin) == ("complete", score, "asked")
            told.append(score)
    study = service.show_study(ctx, study_id)
    assert (study.state, study.counts.complete, len(told)) == ("completed", 5, 5)
    assert study.best is not None
    assert study.best.value == max(told)


def test_a_report_that_comes_again_does_not_take_the_last_metrics_back(ctx: Context) -> None:
    study_id = own(ctx)
    (trial,) = service.ask(ctx, study_id, 1)
    for step, score in ((1, 0.1), (2, 0.2), (1, 0.1)):
        measured = Measured(step=step, metrics={"score": score})
        service.report_trial(ctx, trial.trial_id, trial.token, measured)
    told = service.tell(ctx, trial.trial_id, trial.token)
    assert told.last_metrics == {"score": 0.2}
    assert service.show_trial(ctx, trial.trial_id).last_metrics == told.last_metrics


def test_reports_and_verdicts(ctx: Context) -> None:
    study_id = own(ctx)
    (trial,) = service.ask(ctx, study_id, 1)
    assert (trial.until, trial.max_step) == (3, 3)
    for step, action in ((1, "continue"), (2, "continue"), (3, "finish")):
        verdict = service.report_trial(
            ctx, trial.trial_id, trial.token, Measured(step=step, metrics={"score": 0.1 * step})
        )
        assert verdict.action == action
    assert service.show_trial(ctx, trial.trial_id).value == pytest.approx(0.3)


def test_tell_keeps_the_last_report(ctx: Context) -> None:
    study_id = own(ctx)
    (trial,) = service.ask(ctx, study_id, 1)
    measured = Measured(step=1, metrics={"score": 0.25})
    service.report_trial(ctx, trial.trial_id, trial.token, measured)
    assert service.tell(ctx, trial.trial_id, trial.token).value == 0.25


@pytest.mark.parametrize(
    ("told", "state", "reason"),
    [
        ({"values": math.nan}, "fail", "diverged"),
        ({"values": [None]}, "fail", "diverged"),
        ({"state": "fail", "reason": "no luck"}, "fail", "no luck"),
        ({"state": "pruned", "reason": "bored"}, "pruned", "bored"),
    ],
)
def test_other_ends(ctx: Context, told: dict[str, Any], state: str, reason: str) -> None:
    (trial,) = service.ask(ctx, own(ctx), 1)
    view = service.tell(ctx, trial.trial_id, trial.token, **told)
    assert (view.state, view.reason) == (state, reason)
    assert view.values is None


def test_a_trial_of_which_nobody_knows_whether_it_keeps_the_constraint_is_never_best(
    ctx: Context,
) -> None:
    bound = {"metric": "size", "max": 2.0}
    study_id = own(ctx, constraint=bound, budget={"trials": 5, "epochs": 3, "target": 0.9})
    unknown, kept = service.ask(ctx, study_id, 2)
    told = service.tell(ctx, unknown.trial_id, unknown.token, values=0.95)
    assert told.state == "complete"
    assert (told.constraint or 0.0) > 0
    measured = Measured(step=1, metrics={"score": 0.1, "size": 1.0})
    service.report_trial(ctx, kept.trial_id, kept.token, measured)
    service.tell(ctx, kept.trial_id, kept.token)
    assert [trial.id for trial in service.best(ctx, study_id)] == [kept.trial_id]
    assert service.show_study(ctx, study_id).state == "running"


@pytest.mark.parametrize(
    ("told", "field"),
    [({"state": "running"}, "state"), ({"values": [1.0, 2.0]}, "values"), ({}, "values")],
)
def test_wrong_words_change_nothing(ctx: Context, told: dict[str, Any], field: str) -> None:
    (trial,) = service.ask(ctx, own(ctx), 1)
    with pytest.raises(InvalidInput) as caught:
        service.tell(ctx, trial.trial_id, trial.token, **told)
    assert caught.value.field == field
    assert service.show_trial(ctx, trial.trial_id).state == "running"


def test_only_the_holder_is_heard(ctx: Context, clock: Clock) -> None:
    study_id = own(ctx)
    (trial,) = service.ask(ctx, study_id, 1)
    with pytest.raises(LeaseLost):
        service.tell(ctx, trial.trial_id, "guess", values=1.0)
    with pytest.raises(LeaseLost):
        service.renew_trial(ctx, trial.trial_id, "guess")
    clock.advance(3000)
    assert service.renew_trial(ctx, trial.trial_id, trial.token) > trial.expires_at
    clock.run(3000, ctx)
    measured = Measured(step=1, metrics={"score": 0.25})
    service.report_trial(ctx, trial.trial_id, trial.token, measured)
    clock.run(3601, ctx)
    with pytest.raises(LeaseLost):
        service.report_trial(ctx, trial.trial_id, trial.token, measured)
    (again,) = service.ask(ctx, study_id, 1)
    assert again.trial_id == trial.trial_id
    service.tell(ctx, again.trial_id, again.token, values=1.0)
    with pytest.raises(LeaseLost):
        service.tell(ctx, trial.trial_id, trial.token, values=1.0)


def test_the_last_word_may_be_said_again(ctx: Context) -> None:
    """By report or by tell: whose answer was lost, or who tells what a report has ended already."""
    study_id = own(ctx)
    (trial,) = service.ask(ctx, study_id, 1)
    for step in (1, 2, 3):
        measured = Measured(step=step, metrics={"score": 0.1 * step})
        service.report_trial(ctx, trial.trial_id, trial.token, measured)
    ended = service.show_trial(ctx, trial.trial_id)
    assert ended.state == "complete"
    again = service.report_trial(ctx, trial.trial_id, trial.token, measured)
    assert again.action == "finish"
    assert service.tell(ctx, trial.trial_id, trial.token) == ended
    assert service.tell(ctx, trial.trial_id, trial.token, values=measured.metrics["score"]) == ended
    assert service.renew_trial(ctx, trial.trial_id, trial.token) == ended.finished_at
    unheard = Measured(step=2, metrics={"score": 9.0})
    assert service.report_trial(ctx, trial.trial_id, trial.token, unheard).action == "finish"
    assert [p.value for p in service.measurements(ctx, trial.trial_id)] == [0.1, 0.2, 0.1 * 3]
    for told in ({"values": 0.7}, {"state": "pruned"}, {"values": math.nan}):
        with pytest.raises(Conflict, match=r"has ended already: complete with 0\.3"):
            service.tell(ctx, trial.trial_id, trial.token, **told)
    assert service.show_trial(ctx, trial.trial_id) == ended


def test_a_trial_stopped_by_others_is_lost_to_its_loop(ctx: Context) -> None:
    (trial,) = service.ask(ctx, own(ctx), 1)
    measured = Measured(step=1, metrics={"score": 0.1})
    service.report_trial(ctx, trial.trial_id, trial.token, measured)
    service.stop_trial(ctx, trial.trial_id)
    with pytest.raises(LeaseLost):
        service.report_trial(ctx, trial.trial_id, trial.token, measured)
    with pytest.raises(LeaseLost):
        service.renew_trial(ctx, trial.trial_id, trial.token)
    with pytest.raises(LeaseLost):
        service.tell(ctx, trial.trial_id, trial.token)


def test_who_gives_signs_of_life_is_held_for_less(ctx: Context, clock: Clock) -> None:
    study_id = own(ctx)
    reported, renewed = service.ask(ctx, study_id, 2)
    measured = Measured(step=1, metrics={"score": 0.25})
    service.report_trial(ctx, reported.trial_id, reported.token, measured, lease_seconds=30)
    service.renew_trial(ctx, renewed.trial_id, renewed.token, lease_seconds=30)
    clock.run(31, ctx)
    for trial in (reported, renewed):
        with pytest.raises(LeaseLost):
            service.renew_trial(ctx, trial.trial_id, trial.token)
    assert {t.trial_id for t in service.ask(ctx, study_id, 2)} == {
        reported.trial_id,
        renewed.trial_id,
    }


def test_what_is_not_there(ctx: Context) -> None:
    with pytest.raises(NotFound):
        service.ask(ctx, 99)
    with pytest.raises(NotFound):
        service.tell(ctx, 99, "x", values=1.0)
    with pytest.raises(InvalidInput):
        service.ask(ctx, own(ctx), 0)


def test_no_worker_takes_a_trial_of_a_loop(ctx: Context) -> None:
    own(ctx)
    assert Trainer(ctx).lease() == []


def test_a_loop_may_help_with_a_study_of_workers(ctx: Context) -> None:
    study = service.submit(ctx, spec(budget={"trials": 4, "epochs": 2}))
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    for trial in service.ask(ctx, study.id, 10):
        service.tell(ctx, trial.trial_id, trial.token, values=0.5)
    trainer.work()
    assert service.show_study(ctx, study.id).counts.complete == 4
    submit(ctx, "other")
