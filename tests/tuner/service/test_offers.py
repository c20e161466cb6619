"""Tasks that only workers have: studies of them are checked by what the workers say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tuner.service.simulation import Clock, submit
from tuner import service
from tuner.errors import InvalidInput, UnknownName
from tuner.protocol import Leased, LeaseRequest, WorkerHello
from tuner.service import Context
from tuner.tasks import Setting, TaskForm
from tuner.tasks.form import Parameter

SCRIPT = TaskForm(name="my_llm", kind="script", objective=("loss", "minimize"))
WIDTH = Setting(8, "units", {"type": "int", "low": 4, "high": 16}, low=1, high=64)
TASK = TaskForm(
    name="theirs",
    params=(Parameter(name="path", required=True), Parameter(name="valid", default=0.1)),
    settings={"model.width": WIDTH},
    metrics=("val_loss", "train_loss", "val_f1"),
    files=("path",),
)
SPACE: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "rope-base": {"type": "categorical", "choices": [1e4, 1e6]},
}


def registered(ctx: Context, *forms: TaskForm, name: str = "w") -> int:
    hello = WorkerHello(name=name, tasks=["digits", *(f.name for f in forms)], forms=list(forms))
    return service.register_worker(ctx, hello).worker_id


def test_a_study_can_name_only_what_a_worker_has(ctx: Context) -> None:
    with pytest.raises(UnknownName, match="my_llm"):
        submit(ctx, task="my_llm", space=SPACE)
    registered(ctx, SCRIPT)
    with pytest.raises(UnknownName) as caught:
        submit(ctx, task="other_llm", space=SPACE)
    assert caught.value.field == "task.name"
    assert {"my_llm", "digits"} <= set(caught.value.facts["known"])  # type: ignore[arg-type]
    study = submit(ctx, task="my_llm", space=SPACE)
    assert [(o.metric, o.direction) for o in study.objective] == [("loss", "minimize")]


def test_a_study_outlives_the_workers_word(ctx: Context, clock: Clock) -> None:
    """What was accepted is trained by a server that never heard of the script."""
    worker = registered(ctx, SCRIPT)
    study = submit(ctx, task="my_llm", space=SPACE)
    service.leave(ctx, worker)
    other = Context(ctx.db, ctx.now, ctx.settings)
    assert service.show_study(other, study.id).objective[0].metric == "loss"
    again = registered(other, SCRIPT)
    (leased,) = service.lease(other, again, LeaseRequest(k=1)).leased
    assert (leased.task, leased.task_params, leased.metrics) == ("my_llm", {}, ["loss"])
    assert set(leased.config) == set(SPACE)


def test_the_last_word_about_a_task_counts(ctx: Context) -> None:
    registered(ctx, SCRIPT)
    named = SCRIPT.model_copy(update={"metrics": ("loss", "bleu")})
    registered(ctx, named, name="newer")
    with pytest.raises(InvalidInput) as caught:
        submit(ctx, task="my_llm", space=SPACE, objective={"metric": "rouge"})
    assert caught.value.field == "objective.metric"
    assert submit(ctx, task="my_llm", space=SPACE, objective={"metric": "bleu"}).id


def test_what_is_installed_here_needs_no_word(ctx: Context) -> None:
    registered(ctx, TaskForm(name="digits", metrics=("val_loss", "lies")))
    with pytest.raises(InvalidInput):
        submit(ctx, objective={"metric": "lies"})
    names = [form.name for form in service.list_tasks(ctx)]
    assert names == sorted(set(names))


WRONG_SCRIPTS: list[tuple[dict[str, Any], str]] = [
    ({"space": "auto"}, "space"),
    ({"task": {"name": "my_llm", "params": {"command": ["rm"]}}}, "task.params.command"),
    ({"space": {"a.b": 1, "A_b": 2}}, "space.A_b"),
    ({"pruner": "pbt"}, "pruner.name"),
    ({"space": {**SPACE, "lr": {"type": "float", "low": 2, "high": 1}}}, "space.lr"),
    ({"space": {"rm -rf /": 1}}, "space.rm -rf /"),
]


@pytest.mark.parametrize(("changes", "field"), WRONG_SCRIPTS, ids=str)
def test_a_wrong_study_of_a_script(ctx: Context, changes: dict[str, Any], field: str) -> None:
    registered(ctx, SCRIPT)
    with pytest.raises(InvalidInput) as caught:
        submit(ctx, **{"task": "my_llm", "space": SPACE, **changes})
    assert caught.value.field.startswith(field)
    assert service.list_studies(ctx).items == []


def test_a_scripts_own_words_have_no_prior(ctx: Context) -> None:
    """``lr`` may mean anything to it, unless it says which optimizer it is for."""
    registered(ctx, SCRIPT)
    study = submit(ctx, task="my_llm", space=SPACE)
    assert study.spec["space"]["lr"]["prior"] == "none"
    named = submit(ctx, "named", task="my_llm", space={**SPACE, "optimizer": "adamw"})
    assert "prior" not in named.spec["space"]["lr"]
    own = {"center": 0.01, "spread": 1.0}
    given = submit(ctx, "own", task="my_llm", space={"lr": {**SPACE["lr"], "prior": own}})
    assert given.spec["space"]["lr"]["prior"] == own


WRONG_TASKS: list[tuple[dict[str, Any], str]] = [
    ({"task": {"name": "theirs", "params": {}}}, "task.params.path"),
    ({"task": {"name": "theirs", "params": {"path": "x", "size": 1}}}, "task.params.size"),
    ({"space": {"model.width": 128}}, "space.model.width"),
    ({"space": {"model.depth": 2}}, "space.model.depth"),
    ({"space": {"beta3": 2}}, "space.beta3"),
    ({"objective": {"metric": "val_bleu"}}, "objective.metric"),
    ({"constraint": {"metric": "size", "max": 1}}, "constraint.metric"),
]


@pytest.mark.parametrize(("changes", "field"), WRONG_TASKS, ids=str)
def test_a_wrong_study_of_a_workers_task(ctx: Context, changes: dict[str, Any], field: str) -> None:
    registered(ctx, TASK)
    good = {"task": {"name": "theirs", "params": {"path": "x"}}, "space": {"lr": 0.1}}
    with pytest.raises(InvalidInput) as caught:
        submit(ctx, **{**good, **changes})
    assert caught.value.field == field
    assert submit(ctx, **{**good, "space": "auto"}).spec["space"]["model.width"]["high"] == 16


def test_one_script_is_prepared_for_each_worker(ctx: Context) -> None:
    for i in range(2):
        registered(ctx, SCRIPT, name=f"w{i}")
    study = submit(ctx, task="my_llm", space=SPACE, budget={"trials": 20, "epochs": 2})
    service.look_ahead(ctx)
    assert service.show_study(ctx, study.id).counts.waiting == 2


def test_another_tasks_turn_lets_the_worker_drain(ctx: Context) -> None:
    """What a worker holds decides what fits; the order of service decides who is next."""
    worker = registered(ctx, SCRIPT)
    digits = submit(ctx)

    def fitting() -> list[Leased]:
        return service.lease(ctx, worker, LeaseRequest(k=2, tasks=["digits"])).leased

    assert len(fitting()) == 2
    script = submit(ctx, "script", task="my_llm", space=SPACE, priority=1)
    assert fitting() == []
    (leased,) = service.lease(ctx, worker, LeaseRequest(k=1)).leased
    assert leased.study_id == script.id
    service.pause_study(ctx, script.id)
    more = fitting()
    assert {trial.study_id for trial in more} == {digits.id}
    service.resume_study(ctx, script.id)
    service.update_study(ctx, script.id, service.StudyPatch(max_concurrent=1))
    assert len(fitting()) == 2, "it holds all that it may"
