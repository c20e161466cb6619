"""A turn goes by what is at hand, and is written only if that is still what the database holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tuner.service.simulation import Trainer, submit
from tuner import service
from tuner.errors import LeaseLost, NotFound
from tuner.protocol import Measured
from tuner.service import Asked, Context, StudyView
from tuner.service.searches import GUARDED_TURNS
from tuner.service.turn import Turn
from tuner.service.turns import take, turn
from tuner.storage.trials import TrialRow


@pytest.fixture
def other(ctx: Context, database_url: str) -> Iterator[Context]:
    """Another server on the same database."""
    opened = Context.open(database_url, now=ctx.now)
    yield opened
    opened.close()


@pytest.fixture
def study(ctx: Context) -> StudyView:
    return submit(ctx, budget={"trials": 100, "epochs": 9})


def asked(ctx: Context, study: StudyView) -> Asked:
    return service.ask(ctx, study.id, 1)[0]


def report(ctx: Context, trial: Asked, step: int) -> str:
    measured = Measured(step=step, metrics={"val_loss": 1.0 / step})
    return service.report_trial(ctx, trial.trial_id, trial.token, measured).action


def advance(this: Turn, trial: Asked) -> TrialRow:
    """Changes the trial, as a report would."""
    this.join()
    row = this.rows([trial.trial_id])[trial.trial_id]
    row.step += 1
    this.change(row)
    return row


def test_what_another_process_changed_meanwhile_is_not_written_over(
    ctx: Context, other: Context, study: StudyView
) -> None:
    trial = asked(ctx, study)
    seen = []

    def act(taken: dict[int, Turn]) -> None:
        row = advance(taken[study.id], trial)
        if not seen:
            assert report(other, trial, 1) == "continue"
        seen.append(row.step)

    take(ctx, [study.id], act)
    assert seen == [1, 2], "it was to run again, on what the other process had written"
    assert service.show_trial(ctx, trial.trial_id).step == 2
    assert [p.step for p in service.measurements(ctx, trial.trial_id)] == [1]


def test_a_study_that_others_change_is_locked_from_the_start(
    ctx: Context, other: Context, study: StudyView
) -> None:
    trial = asked(ctx, study)
    assert report(other, trial, 1) == "continue"
    assert report(ctx, trial, 2) == "continue"
    live = ctx.searches.of(study.id)
    search = live.search
    assert live.guarded == GUARDED_TURNS - 1
    assert report(other, trial, 3) == "continue"
    assert report(ctx, trial, 4) == "continue"
    assert live.search is search, "under the lock the search is told what changed, not built anew"
    for step in range(5, 9):
        assert report(ctx, trial, step) == "continue"
    assert live.guarded == GUARDED_TURNS - 4


def test_a_refusal_is_not_of_what_was_at_hand(
    ctx: Context, other: Context, study: StudyView
) -> None:
    asked(ctx, study)
    elsewhere = asked(other, study)
    with pytest.raises(LeaseLost):
        service.report_trial(
            ctx, elsewhere.trial_id, "no token", Measured(step=1, metrics={"val_loss": 1.0})
        )
    another = asked(other, study)
    assert report(ctx, another, 1) == "continue"
    assert service.tell(ctx, elsewhere.trial_id, elsewhere.token, values=0.5).state == "complete"


def test_nor_is_a_lost_verdict(ctx: Context, other: Context, study: StudyView) -> None:
    here = Trainer(ctx, slots=1)
    here.lease()
    moved = Trainer(other, slots=1)
    moved.lease()
    moved.ctx = ctx  # its next report reaches this server
    assert [verdict.action for verdict in moved.round().verdicts] == ["continue"]


def test_what_failed_is_forgotten(ctx: Context, study: StudyView) -> None:
    trial = asked(ctx, study)

    def act(taken: dict[int, Turn]) -> None:
        advance(taken[study.id], trial)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        take(ctx, [study.id], act)
    assert service.show_trial(ctx, trial.trial_id).step == 0
    with pytest.raises(ZeroDivisionError), turn(ctx, study.id) as this:
        act({study.id: this})
    assert service.show_trial(ctx, trial.trial_id).step == 0
    assert report(ctx, trial, 1) == "continue"
    assert service.show_trial(ctx, trial.trial_id).step == 1


def test_what_was_refused_before_anything_changed_is_kept(ctx: Context, study: StudyView) -> None:
    trial = asked(ctx, study)
    search = ctx.searches.of(study.id).search
    assert search is not None
    with pytest.raises(LeaseLost):
        service.tell(ctx, trial.trial_id, "no token", values=0.5)
    assert ctx.searches.of(study.id).search is search


def test_a_study_that_is_gone_has_no_turn(ctx: Context, other: Context, study: StudyView) -> None:
    trial = asked(ctx, study)
    service.delete_study(other, study.id)
    with pytest.raises(NotFound):
        report(ctx, trial, 1)
    with pytest.raises(NotFound), turn(ctx, study.id):
        pass
    with pytest.raises(NotFound):
        service.ask(ctx, study.id, 1)
    assert ctx.searches.entries() == []


def test_a_study_that_is_over_takes_nothing(ctx: Context, study: StudyView) -> None:
    trial = asked(ctx, study)
    service.cancel_study(ctx, study.id)
    with pytest.raises(LeaseLost):
        report(ctx, trial, 1)
    with pytest.raises(LeaseLost):
        service.tell(ctx, trial.trial_id, trial.token, values=0.5)
    assert service.ask(ctx, study.id, 1) == []
    assert ctx.searches.entries() == []
