"""Studies: submitted, listed, changed, paused, resumed, stopped, cancelled, deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from tests.tuner.service.simulation import SPACE, Clock, Trainer, spec, submit
from tuner import service
from tuner.errors import Conflict, InvalidInput, NotFound
from tuner.protocol import Heartbeat, WorkerHello
from tuner.service import Context, StudyPatch, searches
from tuner.spec import StudySpec
from tuner.storage import studies
from tuner.storage.models import Event, Measurement, Study, Trial


def test_a_wrong_study_stores_nothing(ctx: Context) -> None:
    with pytest.raises(InvalidInput):
        submit(ctx, objective={"metric": "nonsense"})
    with ctx.db.session() as session:
        assert session.scalar(select(func.count()).select_from(Study)) == 0
        assert session.scalar(select(func.count()).select_from(Event)) == 0


def test_a_name_is_taken_once(ctx: Context) -> None:
    submit(ctx)
    with pytest.raises(Conflict, match="named 'study' already"):
        submit(ctx)


UNSHOWN = ["   ", "two\nlines", "a\u202eb", "tab\t", "\x7f", "\u200b"]


@pytest.mark.parametrize("name", UNSHOWN)
def test_a_name_that_cannot_be_shown_is_refused(ctx: Context, name: str) -> None:
    study = submit(ctx)
    calls: list[Callable[[], object]] = [
        lambda: submit(ctx, name),
        lambda: service.preview(ctx, spec(name)),
        lambda: service.update_study(ctx, study.id, StudyPatch(name=name)),
        lambda: service.register_worker(ctx, WorkerHello(name=name, tasks=["digits"])),
    ]
    for call in calls:
        with pytest.raises(InvalidInput) as caught:
            call()
        assert caught.value.field == "name"
    assert [s.name for s in service.list_studies(ctx).items] == ["study"]
    assert service.list_workers(ctx) == []


def test_a_study_stored_under_such_a_name_lives_on(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 1})
    with ctx.db.write() as session:
        stored = session.get_one(Study, study.id)
        stored.name, stored.spec = "a\u202eb", {**stored.spec, "name": "a\u202eb"}
    assert service.show_study(ctx, study.id).name == "a\u202eb"
    assert service.update_study(ctx, study.id, StudyPatch(priority=3)).priority == 3
    Trainer(ctx).work()
    assert service.list_studies(ctx).items[0].state == "completed"
    assert service.update_study(ctx, study.id, StudyPatch(name="b")).name == "b"


def test_the_stored_study_file_can_be_submitted_again(ctx: Context) -> None:
    first = submit(ctx, budget=None, sampler=None, pruner=None)
    again = service.submit(ctx, StudySpec.parse({**first.spec, "name": "again"}))
    assert {**again.spec, "name": "study"} == first.spec
    assert first.spec["budget"]["trials"] == 64


def test_a_preview_stores_nothing(ctx: Context) -> None:
    space = {**SPACE, "lr": {"type": "categorical", "choices": [0.1, 0.01]}}
    seen = service.preview(ctx, spec(space=space, sampler="grid", budget={"epochs": 5}))
    assert (seen.grid_size, seen.trials, seen.total_epochs) == (6, 6, 30)
    assert len(seen.samples) == 6
    seen = service.preview(ctx, spec(budget={"trials": 7, "epochs": 5}))
    assert (seen.grid_size, seen.trials, seen.total_epochs) == (None, 7, 35)
    assert len(seen.samples) == 10
    assert all(s["optimizer"] == "adamw" for s in seen.samples)
    assert service.list_studies(ctx).items == []


def test_studies_are_listed_a_page_at_a_time(ctx: Context, clock: Clock) -> None:
    for i in range(7):
        clock.advance(1)
        submit(ctx, f"study {i}", tags=["even"] if i % 2 == 0 else ["o%d_d"], priority=i % 3)
    for sort in ("created_at", "-created_at", "name", "-priority", "priority", "id"):
        names: list[str] = []
        cursor = None
        for _ in range(4):
            page = service.list_studies(ctx, sort=sort, cursor=cursor, limit=2)
            names += [s.name for s in page.items]
            cursor = page.next_cursor
        assert cursor is None
        whole = [s.name for s in service.list_studies(ctx, sort=sort).items]
        assert names == whole
        assert sorted(names) == [f"study {i}" for i in range(7)]
    assert [s.name for s in service.list_studies(ctx, sort="name", tag="even").items] == [
        "study 0",
        "study 2",
        "study 4",
        "study 6",
    ]
    assert len(service.list_studies(ctx, tag="o%d_d").items) == 3
    assert service.list_studies(ctx, tag="eve").items == []
    assert len(service.list_studies(ctx, text="TUDY 3").items) == 1
    assert service.list_studies(ctx, text="%").items == []
    assert len(service.list_studies(ctx, state="queued").items) == 7


@pytest.mark.parametrize(
    "wrong",
    [{"sort": "x"}, {"state": "x"}, {"limit": 0}, {"cursor": "x"}, {"cursor": "WzEsMl0"}],
)
def test_a_wrong_list_is_refused(ctx: Context, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        service.list_studies(ctx, **wrong)
    assert caught.value.field == next(iter(wrong))


@pytest.mark.parametrize("sort", ["number", "value", "params.lr", "params.batch_size", "step"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_trials_are_sorted_and_paged(ctx: Context, sort: str, order: str) -> None:
    study = submit(ctx, budget={"trials": 7, "epochs": 2})
    trainer = Trainer(ctx, slots=3)
    trainer.lease()
    for _ in range(3):
        trainer.round()
    whole = service.list_trials(ctx, study.id, sort=sort, order=order).items
    assert len(whole) == 6
    paged: list[int] = []
    cursor = None
    for _ in range(4):
        page = service.list_trials(ctx, study.id, sort=sort, order=order, cursor=cursor, limit=2)
        paged += [t.number for t in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert paged == [t.number for t in whole]
    if sort == "value":
        values = [t.value for t in whole if t.value is not None]
        assert values == sorted(values, reverse=order == "desc")
        assert [t.value is None for t in whole] == [False] * 3 + [True] * 3
    if sort == "params.lr":
        rates = [t.params["lr"] for t in whole]
        assert rates == sorted(rates, reverse=order == "desc")


def test_trials_are_filtered(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 12, "epochs": 1})
    Trainer(ctx).work()
    found = service.list_trials(ctx, study.id, filters={"params.batch_size": ["32"]}).items
    every = service.list_trials(ctx, study.id, state="complete").items
    assert [t.number for t in found] == [t.number for t in every if t.params["batch_size"] == 32]
    with pytest.raises(InvalidInput, match="no parameter"):
        service.list_trials(ctx, study.id, filters={"params.nope": ["1"]})


def test_pause_hands_trials_back_and_resume_goes_on(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 4})
    trainer = Trainer(ctx, slots=2)
    trainer.lease()
    trainer.round()
    assert service.pause_study(ctx, study.id, actor="anna").state == "paused"
    answer = trainer.round()
    assert {v.action for v in answer.verdicts} == {"pause"}
    assert answer.leased == []
    assert trainer.lease() == []
    service.tick(ctx)
    assert service.show_study(ctx, study.id).counts.waiting == 2
    assert service.resume_study(ctx, study.id, actor="anna").state == "running"
    assert {(t.start, t.attempt) for t in trainer.lease()} == {(2, 1)}
    trainer.work()
    assert service.show_study(ctx, study.id).counts.complete == 2
    assert len(trainer.trained) == 8


def test_stop_drains(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 20, "epochs": 3})
    trainer = Trainer(ctx, slots=2)
    service.tick(ctx)
    trainer.lease(1)
    trainer.round()
    assert service.stop_study(ctx, study.id, actor="anna").state == "stopping"
    assert trainer.lease(1) == []
    while trainer.held:
        trainer.round()
    done = service.show_study(ctx, study.id)
    assert (done.state, done.reason) == ("completed", "stopped")
    assert done.counts.waiting == done.counts.running == 0
    assert done.counts.complete >= 1


def test_stopping_an_idle_study_ends_it(ctx: Context) -> None:
    study = submit(ctx)
    assert service.stop_study(ctx, study.id).state == "completed"
    assert service.stop_study(ctx, study.id).state == "completed"


def test_cancel_ends_now(ctx: Context) -> None:
    study = submit(ctx, pruner="asha", budget={"trials": 20, "epochs": 9})
    trainer = Trainer(ctx, slots=3)
    trainer.lease()
    for _ in range(3):
        trainer.round()
    held = {i: s.leased.token for i, s in trainer.held.items()}
    done = service.cancel_study(ctx, study.id, actor="anna")
    assert done.state == "cancelled"
    assert done.counts.waiting == done.counts.running == done.counts.paused == 0
    assert service.heartbeat(ctx, trainer.id, Heartbeat(held=held)).drop == sorted(held)
    assert {v.action for v in trainer.round().verdicts} == {"lost"}
    assert service.show_study(ctx, study.id).counts == done.counts
    assert service.cancel_study(ctx, study.id) == done
    for action in (service.pause_study, service.resume_study, service.stop_study):
        with pytest.raises(Conflict, match="cancelled"):
            action(ctx, study.id)


def test_more_budget_reopens_a_completed_study(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 2})
    trainer = Trainer(ctx, slots=2)
    trainer.work()
    patch = StudyPatch.model_validate({"budget": {"trials": 5, "epochs": 2}})
    assert service.update_study(ctx, study.id, patch, actor="anna").state == "queued"
    trainer.work()
    done = service.show_study(ctx, study.id)
    assert (done.state, done.counts.complete) == ("completed", 5)
    same = service.update_study(ctx, study.id, patch)
    assert same.state == "completed"


BUDGET = {"trials": 4, "epochs": 2}
ACTIONS: dict[str, Callable[[Context, int, int], object]] = {
    "pause": lambda ctx, study, _: service.pause_study(ctx, study),
    "resume": lambda ctx, study, _: service.resume_study(ctx, study),
    "stop": lambda ctx, study, _: service.stop_study(ctx, study),
    "cancel": lambda ctx, study, _: service.cancel_study(ctx, study),
    "retry": lambda ctx, _, failed: service.retry_trial(ctx, failed),
    "more": lambda ctx, study, _: service.update_study(
        ctx, study, StudyPatch.model_validate({"budget": {**BUDGET, "trials": 9}})
    ),
}
AFTER = {
    "running": {"pause": "paused", "stop": "stopping", "cancel": "cancelled"},
    "paused": {"resume": "running", "stop": "stopping", "cancel": "cancelled"},
    "stopping": {"cancel": "cancelled", "pause": "", "resume": "", "retry": ""},
    "completed": {"pause": "", "resume": "", "cancel": "", "retry": "queued", "more": "queued"},
    "failed": {
        **dict.fromkeys(("pause", "resume", "stop", "cancel"), ""),
        **{"retry": "queued", "more": "queued"},
    },
    "cancelled": dict.fromkeys(("pause", "resume", "stop", "retry", "more"), ""),
}
"""The state that an action leads to; nothing: it is refused. What is left out changes nothing."""


def in_state(ctx: Context, state: str) -> tuple[int, int]:
    """A study in this state, whose budget has room, and a trial of it that has failed."""
    study = submit(ctx, budget=BUDGET).id
    failed, other = service.ask(ctx, study, 2)
    service.tell(ctx, failed.trial_id, failed.token, state="fail")
    if state in ("completed", "failed"):
        told = {"values": 0.5} if state == "completed" else {"state": "fail"}
        service.tell(ctx, other.trial_id, other.token, **told)
    if state in ("stopping", "completed", "failed"):
        service.stop_study(ctx, study)
    elif state != "running":
        {"paused": service.pause_study, "cancelled": service.cancel_study}[state](ctx, study)
    assert service.show_study(ctx, study).state == state
    return study, failed.trial_id


@pytest.mark.parametrize("state", AFTER)
@pytest.mark.parametrize("action", ACTIONS)
def test_what_each_action_makes_of_each_state(ctx: Context, state: str, action: str) -> None:
    study, failed = in_state(ctx, state)
    wanted = AFTER[state].get(action, state)
    if wanted:
        ACTIONS[action](ctx, study, failed)
    else:
        with pytest.raises(Conflict, match=state) as caught:
            ACTIONS[action](ctx, study, failed)
        # What an error promises is so.
        assert ("more budget" in caught.value.message) == (
            state in ("completed", "failed") and AFTER[state]["more"] == "queued"
        )
    assert service.show_study(ctx, study).state == (wanted or state)


@pytest.mark.parametrize("action", ["retry", "more"])
@pytest.mark.parametrize("state", ["completed", "failed"])
def test_a_study_that_was_reopened_runs_to_its_end(ctx: Context, state: str, action: str) -> None:
    study, failed = in_state(ctx, state)
    ACTIONS[action](ctx, study, failed)
    Trainer(ctx).work()
    done = service.show_study(ctx, study)
    assert (done.state, done.counts.total) == ("completed", 4 if action == "retry" else 9)
    origins = {t.origin for t in service.list_trials(ctx, study).items if t.state == "complete"}
    assert ("retried" in origins) == (action == "retry")


def test_nothing_is_retried_beyond_the_budget_of_a_study_that_is_over(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 1}).id
    for trial in service.ask(ctx, study, 2):
        service.tell(ctx, trial.trial_id, trial.token, state="fail")
    with pytest.raises(Conflict, match="room for 0 more"):
        service.retry_trial(ctx, trial.trial_id)
    assert service.show_study(ctx, study).state == "failed"


def test_a_study_that_would_end_again_at_once_stays_ended(ctx: Context, clock: Clock) -> None:
    study = submit(ctx, budget={"trials": 9, "epochs": 1, "seconds": 60}).id
    for _ in range(3):
        (trial,) = service.ask(ctx, study, 1)
        clock.advance(21)  # less than a lease
        service.tell(ctx, trial.trial_id, trial.token, state="fail")
    service.tick(ctx)
    ended = service.show_study(ctx, study)
    assert ended.state == "failed"
    with pytest.raises(Conflict, match="budget is met: seconds"):
        service.retry_trial(ctx, trial.trial_id)
    assert service.show_study(ctx, study) == ended


def test_a_space_is_widened_while_the_study_lives(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 30, "epochs": 1})
    trainer = Trainer(ctx, slots=5)
    trainer.lease()
    trainer.round()
    wider = {**SPACE, "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]}}
    service.update_study(ctx, study.id, StudyPatch(space=wider))
    trainer.work()
    trials = service.list_trials(ctx, study.id).items
    assert len(trials) == 30
    assert any(t.params["batch_size"] == 128 for t in trials[10:])
    wider |= {"schedule": "constant", "warmup": "linear", "warmup_fraction": 0.0, "beta1": 0.9}
    service.update_study(ctx, study.id, StudyPatch(space=wider))
    with pytest.raises(InvalidInput, match="a new constant: earlier trials had 0"):
        service.update_study(ctx, study.id, StudyPatch(space={**wider, "label_smoothing": 0.1}))
    with pytest.raises(InvalidInput, match=r"earlier trials had 0\.999"):
        service.update_study(ctx, study.id, StudyPatch(space={**wider, "beta2": 0.99}))
    narrower = {**wider, "batch_size": {"type": "categorical", "choices": [16]}}
    with pytest.raises(InvalidInput, match="which trials have"):
        service.update_study(ctx, study.id, StudyPatch(space=narrower))


def test_what_may_not_change_is_refused(ctx: Context) -> None:
    study = submit(ctx)
    other = submit(ctx, "other")
    Trainer(ctx).lease()
    with pytest.raises(Conflict):
        service.update_study(ctx, other.id, StudyPatch(name="study"))
    patch = StudyPatch.model_validate({"budget": {"trials": 8, "epochs": 9}})
    with pytest.raises(InvalidInput, match="cannot change once there are trials"):
        service.update_study(ctx, study.id, patch)
    changed = service.update_study(
        ctx, study.id, StudyPatch(name="new", tags=["a"], priority=3, description="why")
    )
    assert (changed.name, changed.tags, changed.priority) == ("new", ["a"], 3)
    assert changed.description == "why"


def test_a_deleted_study_is_gone_but_not_from_the_trail(ctx: Context) -> None:
    study = submit(ctx)
    trainer = Trainer(ctx)
    trainer.lease()
    trainer.round()
    service.delete_study(ctx, study.id, actor="anna")
    with pytest.raises(NotFound):
        service.show_study(ctx, study.id)
    with ctx.db.session() as session:
        assert session.scalar(select(func.count()).select_from(Trial)) == 0
        assert session.scalar(select(func.count()).select_from(Measurement)) == 0
    assert {v.action for v in trainer.round().verdicts} == {"lost"}
    last = service.events(ctx, study_id=study.id)[-1]
    assert (last.kind, last.actor) == ("study.deleted", "anna")
    with pytest.raises(NotFound):
        service.delete_study(ctx, study.id)


def test_stop_and_retry_of_one_trial(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 6, "epochs": 3})
    trainer = Trainer(ctx, slots=2)
    first, second = trainer.lease()
    assert service.stop_trial(ctx, first.trial_id, actor="anna").reason == "cancelled"
    answer = trainer.round()
    assert {v.trial_id: v.action for v in answer.verdicts} == {
        first.trial_id: "lost",
        second.trial_id: "continue",
    }
    stopped = service.stop_trial(ctx, second.trial_id)
    assert (stopped.state, stopped.reason) == ("pruned", "stopped")
    with pytest.raises(Conflict, match="ended already"):
        service.stop_trial(ctx, second.trial_id)
    with pytest.raises(Conflict, match="has not failed"):
        service.retry_trial(ctx, second.trial_id)
    again = service.retry_trial(ctx, first.trial_id, actor="anna")
    assert (again.origin, again.params) == (
        "retried",
        service.show_trial(ctx, first.trial_id).params,
    )
    trainer.work()
    done = service.show_study(ctx, study.id)
    assert (done.state, done.counts.total) == ("completed", 6)
    assert service.show_trial(ctx, again.id).state == "complete"


def test_events_tell_every_change_in_order(ctx: Context) -> None:
    study = submit(ctx, budget={"trials": 1, "epochs": 2})
    Trainer(ctx, slots=1).work()
    seen = service.events(ctx, study_id=study.id)
    kinds = [e.kind for e in seen]
    assert kinds[0] == "study.created"
    assert seen[0].actor == "anna"
    for kind in ("trial.created", "trial.leased", "trial.measured", "trial.state"):
        assert kind in kinds
    assert kinds.count("trial.measured") == 2
    assert kinds[-1] == "study.state"
    assert seen[-1].data["state"] == "completed"
    assert [e.id for e in seen] == sorted(e.id for e in seen)
    assert service.events(ctx, study_id=study.id, after=seen[-2].id) == seen[-1:]
    assert service.newest_event(ctx) == service.events(ctx)[-1].id


def test_warm_start_reads_earlier_studies(ctx: Context) -> None:
    first = submit(ctx, "first", budget={"trials": 20, "epochs": 1})
    Trainer(ctx).work()
    sampler = {"name": "tpe", "n_startup_trials": 10, "seed": 1}
    params = {}
    for name, start in (("cold", []), ("warm", [first.id])):
        study = submit(ctx, name, sampler=sampler, warm_start=start)
        Trainer(ctx, slots=4, name=name).lease()
        params[name] = [t.params for t in service.list_trials(ctx, study.id).items]
        service.cancel_study(ctx, study.id)
    assert params["warm"] != params["cold"]
    with pytest.raises(InvalidInput) as caught:
        submit(ctx, "wrong", warm_start=[first.id, 99])
    assert caught.value.field == "warm_start[1]"


def test_warm_start_reads_what_had_finished_when_the_study_was_submitted(
    ctx: Context, clock: Clock
) -> None:
    """A server that starts later, or beside the first one, suggests by the same trials."""
    first = submit(ctx, "first", budget={"trials": 6, "epochs": 1})
    trainer = Trainer(ctx, slots=3)
    trainer.lease(3)
    trainer.round()
    done = len(service.list_trials(ctx, first.id, state="complete").items)
    study = submit(ctx, "second", warm_start=[first.id])
    clock.advance(1)
    trainer.work()
    with ctx.db.session() as session:
        row = studies.get(session, study.id)
        known = searches.warm_start(session, ctx.searches.plans.of(row), row.created_at)
    assert [record.number for record in known] == list(range(3))
    assert done == 3 < len(service.list_trials(ctx, first.id, state="complete").items)


LATER: list[dict[str, Any]] = [
    {"objective": {"metric": "val_accuracy", "direction": "minimize"}},
    {"objective": {"metric": "val_loss", "direction": "maximize"}},
    {"objective": [{"metric": "val_loss"}, {"metric": "val_accuracy", "direction": "maximize"}]},
    {"task": None, "objective": {"metric": "mine"}},
]


@pytest.mark.parametrize("changes", LATER)
def test_warm_start_wants_the_same_objectives(ctx: Context, changes: dict[str, Any]) -> None:
    first = submit(ctx, "first", budget={"trials": 2, "epochs": 1})
    with pytest.raises(InvalidInput, match="study 1 has val_loss minimize; this one") as caught:
        submit(ctx, "later", warm_start=[first.id], **changes)
    assert caught.value.field == "warm_start[0]"


def test_warm_start_from_steps_of_another_length_takes_results_only(ctx: Context) -> None:
    first = submit(ctx, "first", budget={"trials": 3, "epochs": 4})
    trainer = Trainer(ctx, slots=3)
    trainer.lease()
    trainer.round()
    service.stop_trial(ctx, next(iter(trainer.held)))
    trainer.work()
    learned = {}
    for epochs in (4, 8):
        spec = {"budget": {"trials": 2, "epochs": epochs}, "warm_start": [first.id]}
        study = submit(ctx, f"later-{epochs}", **spec)
        with ctx.db.session() as session:
            row = studies.get(session, study.id)
            learned[epochs] = searches.warm_start(
                session, ctx.searches.plans.of(row), row.created_at
            )
    assert sorted({r.state for r in learned[4]}) == ["complete", "pruned"]
    assert all(record.curve for record in learned[4])
    complete = [record for record in learned[4] if record.state == "complete"]
    assert learned[8] == [replace(record, curve={}) for record in complete]


def test_warm_start_reads_no_violation_of_another_constraint(ctx: Context) -> None:
    bound = {"metric": "val_accuracy", "max": 0.4}
    first = submit(ctx, "first", budget={"trials": 2, "epochs": 1}, constraint=bound)
    Trainer(ctx).work()
    learned = {}
    for name, constraint in (("same", bound), ("none", None)):
        study = submit(
            ctx,
            name,
            budget={"trials": 2, "epochs": 1},
            warm_start=[first.id],
            constraint=constraint,
        )
        with ctx.db.session() as session:
            row = studies.get(session, study.id)
            plan = ctx.searches.plans.of(row)
            known = searches.warm_start(session, plan, row.created_at)
            learned[name] = [r.constraint for r in known]
    assert learned == {"same": [pytest.approx(0.1)] * 2, "none": [None] * 2}


def test_a_constraint_keeps_the_best_within_it(ctx: Context) -> None:
    study = submit(
        ctx,
        constraint={"metric": "val_accuracy", "max": 0.4},
        budget={"trials": 3, "epochs": 1},
    )
    Trainer(ctx).work()
    done = service.show_study(ctx, study.id)
    assert done.counts.complete == 3
    assert done.best is None
    assert service.list_trials(ctx, study.id).items[0].constraint == pytest.approx(0.1)
