"""Study files: one clear refusal for each wrong field, and defaults for what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner import optimizers, tasks
from tuner.errors import InvalidInput, UnknownName
from tuner.spaces import Prior, Space
from tuner.spec import StudySpec, check, facts, resolve, unsaid
from tuner.spec.files import read_yaml
from tuner.tasks import Arrays

LR = {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}
GOOD: dict[str, Any] = {
    "name": "digits-adamw",
    "task": {"name": "digits"},
    "objective": {"metric": "val_loss", "direction": "minimize"},
    "space": {
        "optimizer": "adamw",
        "lr": LR,
        "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
        "beta1": {"type": "float", "low": 0.8, "high": 0.99},
        "beta2": {"type": "float", "low": 0.9, "high": 0.9999},
        "eps": {"type": "float", "low": 1e-10, "high": 1e-6, "log": True},
        "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True},
        "schedule": {"type": "categorical", "choices": ["constant", "cosine", "linear", "wsd"]},
        "warmup_fraction": {"type": "float", "low": 0.0, "high": 0.2},
    },
    "sampler": {"name": "tpe", "seed": 0},
    "pruner": {"name": "asha"},
    "budget": {"trials": 64, "epochs": 20},
}


def read(raw: dict[str, Any]) -> None:
    check(StudySpec.parse(raw))


def test_the_documented_study_file_holds() -> None:
    checked = check(StudySpec.parse(GOOD))
    assert checked.max_step == 20
    assert checked.metrics == ["val_loss"]
    assert checked.search().suggest(1)[0].params.keys() == set(checked.space.searched)


def change(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


def space(**parameters: Any) -> dict[str, Any]:
    return change(space={**GOOD["space"], **parameters})


WRONG: list[tuple[dict[str, Any], str, str]] = [
    # The study itself
    ({k: v for k, v in GOOD.items() if k != "name"}, "name", "is missing"),
    (change(name=""), "name", "at least 1"),
    (change(name="a\nb"), "name", "pattern"),
    (change(name=3), "name", "string"),
    (change(nme="x"), "nme", "no such field"),
    (change(seed=-1), "seed", "greater than or equal to 0"),
    (change(seed="x"), "seed", "integer"),
    (change(priority=5000), "priority", "less than or equal to 1000"),
    (change(max_concurrent=0), "max_concurrent", "greater than or equal to 1"),
    (change(tags=["a", ""]), "tags[1]", "at least 1"),
    (change(warm_start=["x"]), "warm_start[0]", "integer"),
    (change(eval_every=0), "eval_every", "greater than 0"),
    (change(eval_every=3), "eval_every", "no multiple"),
    (change(eval_every=40), "eval_every", "no multiple"),
    # The task
    (change(task={"name": "digit"}), "task.name", "digits_cnn"),
    (change(task={"nam": "digits"}), "task.name", "is missing"),
    (change(task=[1]), "task", "valid dictionary"),
    (change(task={"name": "digits", "params": {"depth": 3}}), "task.params.depth", "no such"),
    (change(task={"name": "tabular"}), "task.params.path", "is missing"),
    (
        change(task={"name": "tabular", "params": {"path": "/none.csv", "target": "y"}}),
        "task.params.path",
        "cannot be read",
    ),
    # Objectives and constraint
    (change(objective={"metric": "loss"}), "objective.metric", "val_loss, train_loss"),
    (change(objective={"direction": "minimize"}), "objective[0].metric", "is missing"),
    (
        change(objective={"metric": "val_loss", "direction": "down"}),
        "objective[0].direction",
        "'minimize' or 'maximize'",
    ),
    (
        change(objective=[{"metric": "val_loss"}, {"metric": "val_los"}]),
        "objective[1].metric",
        "none of",
    ),
    (
        change(objective=[{"metric": "val_loss"}, {"metric": "val_loss"}]),
        "objective[1].metric",
        "there already",
    ),
    (change(constraint={"metric": "size", "max": 1}), "constraint.metric", "none of"),
    (change(constraint={"metric": "val_loss"}), "constraint.max", "is missing"),
    # Space: its form
    (change(space="all"), "space", "neither auto nor a mapping"),
    (change(space=[]), "space", "neither auto nor a mapping"),
    (change(space={}), "space", "names no parameter"),
    (space(lr={"type": "float", "low": 1.0, "high": 0.1}), "space.lr.high", "empty"),
    (space(lr={"type": "float", "low": 0, "high": 0.1, "log": True}), "space.lr.low", "above 0"),
    (space(lr={"type": "float", "low": 0.1}), "space.lr.high", "is missing"),
    (space(lr={"type": "flaot", "low": 0.1, "high": 1}), "space.lr.type", "none of float"),
    (space(lr={"low": 0.1, "high": 1}), "space.lr.type", "is missing"),
    (space(lr={**LR, "max": 1}), "space.lr.max", "no such key"),
    (space(lr={**LR, "when": {"sgd": True}}), "space.lr.when.sgd", "not in the space"),
    (space(lr=[0.1, 0.2]), "space.lr", "not a number"),
    (
        space(lr={**LR, "prior": {"center": 5.0, "spread": 1.0}}),
        "space.lr.prior.center",
        "outside the range",
    ),
    (
        space(batch_size={"type": "categorical", "choices": []}),
        "space.batch_size.choices",
        "empty list",
    ),
    # Space: names
    (space(learning_rate=0.1), "space.learning_rate", "nothing reads this name"),
    (space(momentum=0.9), "space.momentum", "adamw has no momentum; "),
    (space(optimizer="adamx"), "space.optimizer", "no optimizer named 'adamx'"),
    (
        space(optimizer={"type": "categorical", "choices": ["adamw", "adamx"]}),
        "space.optimizer.choices[1]",
        "no optimizer named 'adamx'",
    ),
    (
        space(optimizer={"type": "int", "low": 1, "high": 2}),
        "space.optimizer",
        "name of an optimizer",
    ),
    (space(schedule="cosin"), "space.schedule", "no schedule named 'cosin'"),
    (
        space(schedule={"type": "categorical", "choices": ["cosine", "x"]}),
        "space.schedule.choices[1]",
        "no schedule named 'x'",
    ),
    (space(**{"model.depth": 3}), "space.model.depth", "nothing reads this name"),
    (space(**{"schedule.finl": 0.1}), "space.schedule.finl", "no schedule has this setting"),
    (space(**{"lr_scale.": 0.1}), "space.lr_scale.", "nothing reads this name"),
    # Space: values that are legal for nobody
    (space(lr={"type": "float", "low": -1.0, "high": 0.1}), "space.lr.low", "outside"),
    (space(lr="fast"), "space.lr", "not a number"),
    (space(beta1={"type": "float", "low": 0.9, "high": 1.0}), "space.beta1.high", "outside"),
    (
        space(beta1={"type": "categorical", "choices": [0.9, 1.5]}),
        "space.beta1.choices[1]",
        "outside",
    ),
    (space(eps=-1e-8), "space.eps", "outside"),
    (space(weight_decay=-0.1), "space.weight_decay", "outside"),
    (space(warmup_fraction=1.0), "space.warmup_fraction", "outside"),
    (space(dropout=1.0), "space.dropout", "outside"),
    (space(label_smoothing=-0.1), "space.label_smoothing", "outside"),
    (space(clip_norm=0.0), "space.clip_norm", "outside"),
    (space(**{"lr_scale.1": -1.0}), "space.lr_scale.1", "outside"),
    (space(**{"lr_scale.head": 0.1}), "space.lr_scale.head", "no such part; it has 1, 3, 5"),
    (
        space(**{"lr_scale.1": 0.1}, optimizer={"type": "categorical", "choices": ["prodigy"]}),
        "space.lr_scale.1",
        "prodigy keeps numbers of the whole model",
    ),
    (space(precision="fp8"), "space.precision", "none of"),
    (space(precision={"type": "float", "low": 8, "high": 16}), "space.precision.low", "none of"),
    (space(**{"model.hidden": -5}), "space.model.hidden", "outside"),
    (space(**{"model.activation": "sigmod"}), "space.model.activation", "none of"),
    (space(**{"model.hidden": 2.5}), "space.model.hidden", "whole number"),
    (
        space(**{"model.hidden": {"type": "float", "low": 16, "high": 64}}),
        "space.model.hidden.low",
        "whole number",
    ),
    (
        space(**{"model.hidden": {"type": "categorical", "choices": [16, "64"]}}),
        "space.model.hidden.choices[1]",
        "whole number",
    ),
    (space(batch_size=0), "space.batch_size", "outside"),
    (space(batch_size=2.5), "space.batch_size", "whole number"),
    (
        space(batch_size={"type": "float", "low": 16, "high": 64}),
        "space.batch_size.type",
        "use int",
    ),
    (space(batch_size=100_000), "space.batch_size", "training samples"),
    (
        space(batch_size={"type": "categorical", "choices": [16, 2000]}),
        "space.batch_size.choices[1]",
        "training samples",
    ),
    (
        space(batch_size={"type": "int", "low": 16, "high": 2000, "log": True}),
        "space.batch_size.high",
        "training samples",
    ),
    (space(epochs=0), "space.epochs", "less than one"),
    (space(schedule="cosine", **{"schedule.final": 2.0}), "space.schedule.final", "outside"),
    (
        space(schedule="plateau", **{"schedule.monitor": "val_los"}),
        "space.schedule.monitor",
        "measures no 'val_los'",
    ),
    (
        space(
            schedule={"type": "categorical", "choices": ["constant", "plateau"]},
            **{"schedule.monitor": {"type": "categorical", "choices": ["val_loss", "val_bleu"]}},
        ),
        "space.schedule.monitor.choices[1]",
        "it has val_loss, train_loss, val_accuracy",
    ),
    # Sampler and pruner
    (change(sampler={"name": "tpee"}), "sampler.name", "no sampler named 'tpee'"),
    (change(sampler={"seed": 1}), "sampler.name", "is missing"),
    (change(sampler={"name": "tpe", "seed": -1}), "sampler.seed", "greater than or equal to 0"),
    (change(sampler={"name": "tpe", "startup": 1}), "sampler.startup", "no such setting"),
    (
        change(sampler={"name": "tpe", "n_startup_trials": -1}),
        "sampler.n_startup_trials",
        "outside",
    ),
    (change(sampler="grid"), "space.lr", "continuum"),
    (change(pruner={"name": "ash"}), "pruner.name", "no pruner named 'ash'"),
    (change(pruner={"name": "asha", "eta": 3}), "pruner.eta", "no such setting"),
    (
        change(
            objective=[
                {"metric": "val_loss"},
                {"metric": "val_accuracy", "direction": "maximize"},
            ],
            sampler="random",
        ),
        "pruner.name",
        "several objectives",
    ),
    (
        change(task=None, pruner={"name": "pbt", "population": 2}, budget={"trials": 9}),
        "pruner.name",
        "a loop of your own",
    ),
    (
        change(pruner={"name": "pbt", "population": 8}, budget={"trials": 8}),
        "budget.trials",
        "leaves none for copies",
    ),
    (
        change(pruner="pbt", budget={"trials": 99, "epochs": 1}),
        "pruner.interval_steps",
        "no exchange before a training's end",
    ),
    # Budget
    (change(budget={"trials": 0}), "budget.trials", "greater than or equal to 1"),
    (change(budget={"trials": 2.5}), "budget.trials", "integer"),
    (change(budget={"trials": 1, "epochs": 0}), "budget.epochs", "greater than or equal to 1"),
    (change(budget={"epochs": 5}), "budget", "nothing ends this study"),
    (change(budget={"target": 0.1}), "budget", "nothing ends this study"),
    (change(budget={"seconds": -1}), "budget.seconds", "greater than 0"),
    (change(budget={"seconds": float("inf")}), "budget.seconds", "finite"),
    (change(budget={"trials": 1, "target": float("nan")}), "budget.target", "finite"),
    (change(budget={"steps": 1}), "budget.steps", "no such field"),
    (change(budget=64), "budget", "valid dictionary"),
    (
        change(eval_every=2, budget={"total_epochs": 1, "epochs": 20}),
        "budget.total_epochs",
        "less than one",
    ),
    # More steps than a database counts
    (change(eval_every=1e-290), "eval_every", "more than 2147483647 evaluation periods"),
    (change(eval_every=1e-320), "eval_every", "more than 2147483647 evaluation periods"),
    (
        change(task=None, space={"epochs": {"type": "float", "low": 0.0, "high": 1e300}}),
        "space.epochs",
        "more than 2147483647 evaluation periods",
    ),
    (
        change(
            task=None,
            space={"epochs": {"type": "float", "low": 0.0, "high": 1e-290}},
            eval_every=1e-290,
            budget={"total_epochs": 1},
        ),
        "eval_every",
        "too many evaluation periods",
    ),
]


@pytest.mark.parametrize(("raw", "field", "message"), WRONG, ids=[w[1] for w in WRONG])
def test_each_wrong_field_is_named(raw: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(raw)
    assert caught.value.field == field, str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("metric", ["val_loss", "train_loss", "val_accuracy"])
def test_a_plateau_follows_any_metric_of_the_task(metric: str) -> None:
    read(space(schedule="plateau", **{"schedule.monitor": metric}))


def test_a_monitor_that_no_plateau_reads_is_inactive() -> None:
    read(space(schedule="cosine", **{"schedule.monitor": "val_bleu"}))


def test_short_forms_and_defaults() -> None:
    checked = check(StudySpec.parse({"name": "x", "task": "digits"}))
    spec = checked.spec
    assert spec.task is not None
    assert (spec.task.name, spec.objective[0].metric) == ("digits", "val_loss")
    assert spec.budget is not None
    assert (spec.budget.trials, spec.budget.epochs) == (64, 20)
    assert spec.sampler is not None
    assert spec.pruner is not None
    assert (spec.sampler.name, spec.pruner.name) == ("auto", "auto")


def test_auto_takes_the_optimizers_own_ranges_and_priors() -> None:
    checked = check(StudySpec.parse({"name": "x", "task": "digits", "space": "auto"}))
    for name, hyper in optimizers.get("adamw").hyper.items():
        if hyper.search is not None:
            parameter = checked.space.parameters[name]
            assert (parameter.low, parameter.high) == hyper.search  # type: ignore[union-attr]
    prior = checked.space.prior("beta2", {})
    assert prior is not None
    assert prior.scale == "complement"
    assert checked.space.prior("lr", {}).scale == "log"  # type: ignore[union-attr]
    assert max(checked.space.parameters["batch_size"].choices) <= 1078 // 4  # type: ignore[union-attr]


def test_what_is_stored_reads_back_the_same() -> None:
    for raw in (GOOD, {"name": "x", "task": "digits"}, change(eval_every=0.5)):
        first = check(StudySpec.parse(raw))
        again = resolve(StudySpec.parse(first.spec.to_dict()))
        assert again == first


def test_hyperparameters_of_every_chosen_optimizer_are_known() -> None:
    parameters = {
        "optimizer": {"type": "categorical", "choices": ["sgd", "adamw"]},
        "lr": LR,
        "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": "sgd"}},
        "beta1": {"type": "float", "low": 0.5, "high": 0.99, "when": {"optimizer": "adamw"}},
        "lr_scale.1": {"type": "float", "low": 0.1, "high": 1.0},
        "precision": {"type": "categorical", "choices": ["fp32", "bf16"]},
        "model.hidden": {"type": "int", "low": 16, "high": 64},
    }
    checked = check(StudySpec.parse(change(space=parameters)))
    assert checked.space.grid_size is None


SOMETIMES_SGD = {
    "lr": LR,
    "optimizer": {"type": "constant", "value": "sgd", "when": {"schedule": "wsd"}},
    "schedule": {"type": "categorical", "choices": ["wsd", "cosine"]},
}


def test_beyond_its_condition_the_optimizer_is_the_default() -> None:
    checked = check(StudySpec.parse(change(space={**SOMETIMES_SGD, "beta1": 0.8})))
    assert checked.space.prior("lr", {"schedule": "cosine"}) == Prior(1e-3, 1.0, "log")
    assert checked.space.prior("lr", {"schedule": "wsd"}) == Prior(0.03, 0.7, "log")
    with pytest.raises(InvalidInput) as caught:
        check(StudySpec.parse(change(space={**SOMETIMES_SGD, "beta1": 1.5})))
    assert caught.value.field == "space.beta1"


def test_an_optimizer_that_is_not_named_has_its_priors_too() -> None:
    silent = check(StudySpec.parse(change(space={"lr": LR})))
    assert silent.space.prior("lr", {}) == Prior(1e-3, 1.0, "log")


def test_what_a_space_does_not_say_is_what_its_choices_agree_on() -> None:
    silent = unsaid(Space.parse({"lr": 0.1}))
    assert (silent["optimizer"], silent["beta2"], silent["warmup"]) == ("adamw", 0.999, "linear")
    noam = unsaid(Space.parse({"optimizer": "sgd", "schedule": "noam"}))
    assert noam["warmup_fraction"] == 0.04
    assert "beta2" not in noam
    choices = {"type": "categorical", "choices": ["noam", "cosine"]}
    several = unsaid(Space.parse({"schedule": choices}))
    assert "warmup_fraction" not in several
    assert several["schedule.final"] == 0.0


def test_a_range_is_checked_only_where_it_is_active() -> None:
    sgd = optimizers.get("sgd").hyper["momentum"]
    parameters = {
        "optimizer": {"type": "categorical", "choices": ["sgd", "adamw"]},
        "momentum": {
            "type": "float",
            "low": sgd.low,
            "high": 1.5,
            "when": {"optimizer": "sgd"},
        },
    }
    with pytest.raises(InvalidInput) as caught:
        check(StudySpec.parse(change(space=parameters)))
    assert caught.value.field == "space.momentum.high"


def test_evaluation_periods_count_in_steps() -> None:
    checked = check(
        StudySpec.parse(change(eval_every=2, budget={"total_epochs": 101, "epochs": 20}))
    )
    assert (checked.max_step, checked.budget.total_epochs) == (10, 50)
    assert check(StudySpec.parse(change(eval_every=0.5))).max_step == 40


def test_epochs_in_the_space_shorten_a_training() -> None:
    checked = check(StudySpec.parse(space(epochs={"type": "int", "low": 3, "high": 12})))
    assert checked.max_step == 12
    assert checked.max_step_of({"epochs": 5}) == 5
    assert checked.max_step_of({}) == 12


def test_a_study_without_a_task_names_what_it_likes() -> None:
    raw = {
        "name": "loop",
        "space": {"temperature": {"type": "float", "low": 0.0, "high": 1.0}},
        "objective": {"metric": "score", "direction": "maximize"},
        "budget": {"trials": 3, "epochs": 1},
    }
    assert check(StudySpec.parse(raw)).metrics == ["score"]
    with pytest.raises(InvalidInput, match="auto needs a task"):
        check(StudySpec.parse({"name": "loop"}))


@pytest.mark.parametrize("part", ["training", "validation"])
def test_data_without_samples_of_a_part_are_refused(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = tasks.get("digits")().data()
    assert isinstance(splits.train, Arrays)
    none = Arrays(splits.train.x[:0], splits.train.y[:0])
    few = replace(splits, **{"train" if part == "training" else "valid": none})
    monkeypatch.setattr(tasks.get("digits"), "data", lambda self: few)
    facts.cache_clear()
    with pytest.raises(InvalidInput, match=f"no {part} samples") as caught:
        read(GOOD)
    assert caught.value.field == "task.params"


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), OSError("x")])
def test_what_data_raise_is_told_with_its_type(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def data(self: object) -> None:
        raise error

    monkeypatch.setattr(tasks.get("digits"), "data", data)
    facts.cache_clear()
    with pytest.raises(InvalidInput, match=f"cannot be read: {type(error).__name__}: .?x"):
        read(GOOD)


def test_a_file_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: x\ntask: digits\nspace: {lr: 0.1}\n")
    assert StudySpec.from_yaml(path).space == {"lr": 0.1}
    for text in ("name: [", "- 1", "just text", "", "name: x\nspace: {1: 2}"):
        path.write_text(text)
        with pytest.raises(InvalidInput):
            StudySpec.from_yaml(path)
    for twice in ("name: x\nspace: {}\nname: y\n", "name: x\nspace:\n  a: 1\n  a: 2\n"):
        path.write_text(twice)
        with pytest.raises(InvalidInput, match=r"is there already\s+in .*, line [34]"):
            StudySpec.from_yaml(path)
    path.write_text("name: x\nspace: {a: &a {type: constant, value: 1}, b: {<<: *a, value: 2}}\n")
    assert StudySpec.from_yaml(path).space["b"] == {"type": "constant", "value": 2}  # type: ignore[index]  # it is a mapping
    for told in ("created: 2020-13-45\n", "[" * 10_000):
        path.write_text(told)
        with pytest.raises(InvalidInput, match="is not YAML"):
            StudySpec.from_yaml(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput):
        StudySpec.from_yaml(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        StudySpec.from_yaml(tmp_path / "none.yaml")


def test_merged_keys_are_no_second_ones(tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_text("a: &a {x: 1}\ntop:\n  b: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\n")
    assert read_yaml(path) == {"a": {"x": 1}, "top": {"b": {"x": 2}}, "c": {"x": 2, "y": 3}}
    path.write_text("a: &a {x: 1}\nb: &b {y: 2}\nc: {<<: *a, <<: *b, z: 3}\n")
    assert read_yaml(path)["c"] == {"x": 1, "y": 2, "z": 3}  # type: ignore[index]  # it is a mapping


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.e-3", "0.1e-2", ".1e-2", "10e-4"])
def test_a_number_with_an_exponent_is_one(text: str, tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(f"lr: {text}\nlist: [-{text.lstrip('+')}]\nid: {text}a\nquoted: '{text}'\n")
    found = {"lr": 0.001, "list": [-0.001], "id": f"{text}a", "quoted": text}
    assert read_yaml(path) == found


def test_unknown_names_list_those_there_are() -> None:
    with pytest.raises(UnknownName) as caught:
        read(space(optimizer="adamx"))
    assert "adamw" in caught.value.facts["known"]  # type: ignore[operator]


def refusal(raw: dict[str, Any]) -> InvalidInput | None:
    try:
        read(raw)
    except InvalidInput as error:
        return error
    return None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "type", "low", "high", "log", "choices", "trials", "metric"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(field=st.sampled_from(sorted(StudySpec.model_fields)), value=JSON)
def test_whatever_a_field_holds_is_taken_or_refused(field: str, value: Any) -> None:
    wrong = refusal(change(**{field: value}))
    assert wrong is None or wrong.field


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    name=st.sampled_from([*GOOD["space"], "epochs", "model.hidden", "schedule.final", "clip_norm"]),
    value=JSON,
)
def test_whatever_a_parameter_is_it_is_taken_or_refused(name: str, value: Any) -> None:
    wrong = refusal(space(**{name: value}))
    assert wrong is None or wrong.field.startswith("space.")
