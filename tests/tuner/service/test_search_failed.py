"""A sampler or a pruner with a bug ends its own study, and keeps no other one waiting."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from tests.tuner.service.simulation import SPACE, Trainer, submit
from tuner import samplers, service
from tuner.errors import SearchFailed, Unavailable, Uninstalled
from tuner.pruners.asha import AshaPruner
from tuner.samplers.tpe import TpeSampler
from tuner.search import Search
from tuner.service import Context, StudyPatch
from tuner.spec import BudgetSpec
from tuner.storage import measurements, tallies


def bug(*given: Any, **named: Any) -> Any:
    raise IndexError("a bug of the plug-in")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(TpeSampler, "suggest", bug)
    return monkeypatch


def test_others_are_served_past_a_study_whose_sampler_raises(
    ctx: Context, broken: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = submit(ctx, "bad", sampler="tpe", priority=5)
    good = submit(ctx, "good")
    with caplog.at_level(logging.ERROR):
        leased = Trainer(ctx).lease()
    assert {trial.study_id for trial in leased} == {good.id}
    shown = service.show_study(ctx, bad.id)
    assert (shown.state, shown.reason) == (
        "failed",
        "the study's search failed: IndexError: a bug of the plug-in",
    )
    (told,) = [r for r in caplog.records if r.exc_info]
    assert "in bug" in (caplog.handler.formatter or logging.Formatter()).format(told)


def test_a_search_that_cannot_be_built_fails_its_study(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = submit(ctx, "bad", sampler="tpe", priority=5)
    good = submit(ctx, "good")
    monkeypatch.setattr(TpeSampler, "__init__", bug)
    service.look_ahead(ctx)
    service.tick(ctx)
    assert service.show_study(ctx, bad.id).state == "failed"
    assert {trial.study_id for trial in Trainer(ctx).lease()} == {good.id}


def test_a_study_of_what_is_not_installed_here_waits_and_others_do_not(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lacks a plug-in must not end what others train."""
    theirs = submit(ctx, "theirs", sampler="tpe", priority=5)
    trainer = Trainer(ctx, slots=2)
    held = trainer.lease()
    good = submit(ctx, "good")
    ctx.searches.forget(theirs.id)
    ctx.searches.plans._known.clear()
    monkeypatch.delitem(samplers.registry._entries, "tpe")
    service.tick(ctx)
    service.look_ahead(ctx)
    assert service.show_study(ctx, theirs.id).state == "running"
    assert {trial.study_id for trial in Trainer(ctx, name="other").lease()} == {good.id}
    with pytest.raises(Uninstalled, match="tpe"):
        trainer.round()
    assert service.show_study(ctx, theirs.id).state == "running"
    monkeypatch.undo()
    assert {v.action for v in trainer.round().verdicts} == {"continue"}
    assert len(held) == 2


@pytest.mark.parametrize("text", ["a \x00 in it", "x" * 10_000], ids=["zero", "long"])
def test_whatever_a_plug_in_says_fails_its_study_alone(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def bad_words(*given: Any, **named: Any) -> Any:
        raise ValueError(text)

    bad = submit(ctx, "bad", sampler="tpe", priority=5)
    good = submit(ctx, "good")
    monkeypatch.setattr(TpeSampler, "suggest", bad_words)
    assert {trial.study_id for trial in Trainer(ctx).lease()} == {good.id}
    shown = service.show_study(ctx, bad.id)
    assert shown.state == "failed"
    assert len(shown.reason or "") < 2100


def test_a_fit_that_raises_fails_its_study(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    study = submit(ctx, sampler="tpe")
    Trainer(ctx).lease()
    monkeypatch.setattr(Search, "stale", True)
    monkeypatch.setattr(Search, "refit", bug)
    service.look_ahead(ctx)
    assert service.show_study(ctx, study.id).state == "failed"


def test_a_study_that_is_deleted_meanwhile_keeps_no_other_waiting(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = submit(ctx, "gone", priority=5)
    good = submit(ctx, "good")
    queued = tallies.queued

    def deleting(*given: Any) -> Any:
        found = queued(*given)
        if len(found) == 2:
            monkeypatch.undo()
            service.delete_study(ctx, gone.id)
        return found

    monkeypatch.setattr(tallies, "queued", deleting)
    assert {trial.study_id for trial in Trainer(ctx).lease()} == {good.id}


def test_upkeep_fails_it_too_and_once(
    ctx: Context, broken: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = submit(ctx, "bad", sampler="tpe")
    Trainer(ctx)  # has room, so that trials are suggested ahead
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            service.look_ahead(ctx)
    assert service.show_study(ctx, bad.id).state == "failed"
    assert len(caplog.records) == 1


def test_reports_of_other_studies_count_though_a_pruner_raises(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = submit(ctx, "bad", pruner="asha", max_concurrent=2, budget={"trials": 9, "epochs": 20})
    good = submit(ctx, "good", budget={"trials": 2, "epochs": 2})
    trainer = Trainer(ctx, slots=4)
    assert {trial.study_id for trial in trainer.lease()} == {bad.id, good.id}
    monkeypatch.setattr(AshaPruner, "decide", bug)
    answer = trainer.round()
    studies = {slot.leased.study_id for slot in trainer.held.values()}
    assert studies == {good.id}
    assert [v.action for v in answer.verdicts].count("lost") == 2
    assert service.show_study(ctx, bad.id).state == "failed"
    assert service.show_study(ctx, bad.id).counts.running == 0
    trainer.work()
    assert service.show_study(ctx, good.id).counts.complete == 2


def test_who_asks_is_told_why_and_a_mended_search_goes_on(
    ctx: Context, broken: pytest.MonkeyPatch
) -> None:
    own: dict[str, Any] = {"task": None, "objective": {"metric": "loss"}, "sampler": "tpe"}
    study = submit(ctx, space={"lr": SPACE["lr"]}, **own)
    with pytest.raises(SearchFailed, match="IndexError: a bug of the plug-in"):
        service.ask(ctx, study.id)
    assert service.ask(ctx, study.id) == []
    broken.undo()
    more = StudyPatch(budget=BudgetSpec(trials=9, epochs=1))
    assert service.update_study(ctx, study.id, more).state == "queued"
    assert len(service.ask(ctx, study.id)) == 1


def test_a_database_that_is_away_fails_no_study(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = submit(ctx, budget={"trials": 8, "epochs": 20})
    trainer = Trainer(ctx)
    trainer.lease()
    trainer.round()
    ctx.searches.forget(study.id)

    def away(*given: Any) -> Any:
        raise OperationalError("SELECT 1", {}, ConnectionError("gone"))

    monkeypatch.setattr(measurements, "curves", away)
    with pytest.raises((Unavailable, OperationalError)):
        trainer.round()
    monkeypatch.undo()
    assert service.show_study(ctx, study.id).state == "running"
