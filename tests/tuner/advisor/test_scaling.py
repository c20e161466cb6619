"""One rule on one configuration: what moves, what stays, what is refused and by which name."""

from __future__ import annotations

import doctest
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner import optimizers
from tuner.advisor import RULES, digits, move, scale, scaling
from tuner.advisor.families import TRAITS, traits
from tuner.errors import InvalidInput, Refusal, UnknownName

ADAM = {"lr": 1e-3, "batch_size": 128, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


def test_the_docstring_examples_run() -> None:
    assert doctest.testmod(scaling).failed == 0
    assert doctest.testmod(move).failed == 0
    assert doctest.testmod(digits).failed == 0


def test_the_known_error_is_not_repeated() -> None:
    scaled = scale({"lr": 5e-4, "batch_size": 128}, 1024, optimizer="adam", rule="sqrt")
    assert scaled.lr == pytest.approx(0.00141421356, rel=1e-6)
    assert "rises" in scaled.changes["lr"]


def test_the_sde_moves_all_four_together() -> None:
    config = scale(ADAM, 1024, optimizer="adam", rule="sde").config
    expected = {"lr": 0.00282842712, "beta1": 0.2, "beta2": 0.992, "eps": 3.53553391e-9}
    assert {name: config[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_missing_settings_are_written_at_the_optimizers_own_defaults() -> None:
    full = scale(ADAM, 256, optimizer="adam", rule="sde").config
    bare = scale({"lr": 1e-3, "batch_size": 128}, 256, optimizer="adam", rule="sde").config
    assert bare == full


@pytest.mark.parametrize("rule", ["linear", "sqrt", "keep"])
def test_everything_unknown_is_kept(rule: str) -> None:
    config = {"lr": 0.1, "batch_size": 32, "model.width": 64, "dropout": 0.1, "schedule": "cosine"}
    scaled = scale(config, 64, optimizer="sgd", rule=rule).config
    assert {k: v for k, v in scaled.items() if k not in ("lr", "batch_size")} == {
        k: v for k, v in config.items() if k not in ("lr", "batch_size")
    }
    assert config["batch_size"] == 32  # the argument is not touched


def test_durations_at_fixed_epochs_and_at_fixed_steps() -> None:
    config = {"lr": 0.1, "batch_size": 100, "steps": 1001, "warmup_steps": 90, "epochs": 10}
    at_epochs = scale(config, 400, optimizer="sgd", rule="linear").config
    assert (at_epochs["steps"], at_epochs["warmup_steps"], at_epochs["epochs"]) == (251, 23, 10)
    at_steps = scale(config, 400, optimizer="sgd", rule="sqrt", fixed="steps").config
    assert (at_steps["steps"], at_steps["warmup_steps"], at_steps["epochs"]) == (1001, 90, 40)


def test_warmup_has_a_floor_under_adam_and_says_so() -> None:
    scaled = scale(ADAM | {"warmup_steps": 1000}, 1024, optimizer="adamw", rule="sde")
    assert scaled.config["warmup_steps"] == 250
    assert "2 / (1 - beta2)" in scaled.changes["warmup_steps"]


@pytest.mark.parametrize(
    ("warmup", "steps", "new"),
    [(100, 10_000, 100), (1000, 10_000, 625), (4000, 40_000, 2000), (8000, 10_000, 1000)],
)
def test_a_warmup_is_neither_raised_nor_most_of_the_run(warmup: int, steps: int, new: int) -> None:
    config = ADAM | {"warmup_steps": warmup, "steps": steps, "beta2": 0.999}
    scaled = scale(config, 1024, optimizer="adamw", rule="sqrt")
    assert scaled.config["warmup_steps"] == new
    assert new < scaled.config["steps"]
    short = [text for text in scaled.cautions if "warm-up of" in text]
    assert bool(short) == (new < min(2000, warmup))


@pytest.mark.parametrize(("lr", "decay", "moves"), [(0.1, 1.0, True), (0.1, 2.0, False)])
def test_a_decay_that_would_turn_weights_over_is_kept(lr: float, decay: float, moves: bool) -> None:
    config = {"lr": lr, "batch_size": 128, "weight_decay": decay}
    scaled = scale(config, 1024, optimizer="adamw", rule="sde")
    new = scaled.config["weight_decay"]
    assert (new != decay) == moves
    assert moves != any("change sign" in text for text in scaled.cautions)
    assert scaled.lr * new < 1


def test_a_missing_warmup_stays_missing() -> None:
    scaled = scale(ADAM | {"warmup_steps": 0}, 1024, optimizer="adamw", rule="sde")
    assert scaled.config["warmup_steps"] == 0


@pytest.mark.parametrize(("rule", "decay"), [("keep", 0.8), ("sqrt", 0.282842712)])
def test_decay_keeps_its_timescale(rule: str, decay: float) -> None:
    scaled = scale(ADAM | {"weight_decay": 0.1}, 1024, optimizer="adamw", rule=rule)
    assert scaled.config["weight_decay"] == pytest.approx(decay, rel=1e-6)


def test_decay_of_sgd_does_not_move_with_the_linear_rule() -> None:
    config = {"lr": 0.1, "batch_size": 128, "weight_decay": 1e-4, "momentum": 0.9}
    scaled = scale(config, 1024, optimizer="momentum", rule="linear").config
    assert scaled["weight_decay"] == pytest.approx(1e-4)
    assert scaled["momentum"] == 0.9


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "rmsprop", "lamb", "lars"])
def test_decay_without_a_rule_is_kept_and_the_reader_told(optimizer: str) -> None:
    config = {"lr": 1e-3, "batch_size": 128, "weight_decay": 0.01}
    scaled = scale(config, 256, optimizer=optimizer, rule="sqrt")
    assert scaled.config["weight_decay"] == 0.01
    assert any("weight_decay" in text and "adamw" in text for text in scaled.cautions)


def test_gain_of_adam_moves_eps_with_the_root_of_the_gain() -> None:
    config = scale(ADAM, 1024, optimizer="adam", rule="gain", noise_scale=1024).config
    gain = (1 + 1024 / 128) / 2
    assert config["lr"] == pytest.approx(1e-3 * math.sqrt(gain))
    assert config["eps"] == pytest.approx(1e-8 / math.sqrt(gain))
    assert config["beta1"] == pytest.approx(0.9**8)


def test_gain_of_sgd_tends_to_linear_and_to_keep() -> None:
    config = {"lr": 0.1, "batch_size": 128}
    for noise, lr in ((1e12, 0.8), (1e-6, 0.1)):
        scaled = scale(config, 1024, optimizer="sgd", rule="gain", noise_scale=noise)
        assert scaled.lr == pytest.approx(lr, rel=1e-6)


REFUSED: list[tuple[str, str, dict[str, Any], str, str]] = [
    # optimizer, rule, arguments, hyperparameter named, what to do instead
    ("adam", "linear", {}, "optimizer", "sde"),
    ("lion", "linear", {}, "optimizer", "sqrt"),
    ("sgd", "sde", {}, "optimizer", "linear"),
    ("lion", "sde", {}, "optimizer", "sqrt"),
    ("adagrad", "sde", {}, "optimizer", "keep"),
    ("sgd", "surge", {"noise_scale": 1e4}, "optimizer", "linear"),
    ("muon", "surge", {"noise_scale": 1e4}, "optimizer", "sqrt"),
    ("prodigy", "sqrt", {}, "lr", "keep"),
    ("adam", "sde", {"fixed": "steps"}, "fixed", "keep"),
    ("sgd", "linear", {"fixed": "steps"}, "fixed", "sqrt"),
    ("sgd", "gain", {}, "noise_scale", "measure"),
    ("adam", "surge", {}, "noise_scale", "measure"),
    ("sgd", "linear", {"noise_scale": 500.0}, "batch", "gain"),
    ("adam", "sde", {"noise_scale": 500.0}, "batch", "gain"),
    ("adam", "surge", {"noise_scale": 1e4, "fixed": "steps"}, "fixed", "keep"),
    ("sgd", "gain", {"noise_scale": 1e4, "fixed": "steps"}, "fixed", "sqrt"),
    ("adagrad", "gain", {"noise_scale": 5e5}, "optimizer", "keep"),
]


@pytest.mark.parametrize(("optimizer", "rule", "extra", "field", "instead"), REFUSED)
def test_refusals_name_the_hyperparameter_and_a_way_out(
    optimizer: str, rule: str, extra: dict[str, Any], field: str, instead: str
) -> None:
    with pytest.raises(Refusal) as caught:
        scale({"lr": 1e-3, "batch_size": 128}, 1024, optimizer=optimizer, rule=rule, **extra)
    assert caught.value.field == field
    assert instead in str(caught.value)
    assert caught.value.facts["rule"] == rule


def test_every_way_out_of_a_refusal_leads_out() -> None:
    config = {"lr": 1e-3, "batch_size": 128}
    for optimizer, rule, extra, _, instead in REFUSED:
        if instead in RULES:
            assert instead != rule
            scaled = scale(config, 1024, optimizer=optimizer, rule=instead, **extra)
            assert 1 <= scaled.multiplier <= 8


@pytest.mark.parametrize("batch", [1280, 2048])
def test_beta1_would_turn_negative(batch: int) -> None:
    with pytest.raises(Refusal, match="half_life") as caught:
        scale(ADAM, batch, optimizer="adamw", rule="sde")
    assert caught.value.field == "beta1"
    config = scale(ADAM, batch, optimizer="adamw", rule="half_life").config
    assert config["beta1"] == pytest.approx(caught.value.facts["instead"])


@pytest.mark.parametrize("rule", ["gain", "half_life"])
def test_at_a_far_larger_batch_momentum_is_not_switched_off(rule: str) -> None:
    scaled = scale(ADAM, 128 * 64, optimizer="adamw", rule=rule, noise_scale=1e5)
    assert scaled.config["beta1"] == pytest.approx(0.9**10)
    assert "one step" in scaled.changes["beta1"]
    assert scaled.config["beta2"] == pytest.approx(0.999**64)
    assert "one step" not in scaled.changes["beta2"]


@pytest.mark.parametrize(
    ("config", "batch", "field"),
    [
        ({"batch_size": 8}, 16, "lr"),
        ({"lr": 0.0, "batch_size": 8}, 16, "lr"),
        ({"lr": float("nan"), "batch_size": 8}, 16, "lr"),
        ({"lr": True, "batch_size": 8}, 16, "lr"),
        ({"lr": "1", "batch_size": 8}, 16, "lr"),
        ({"lr": 1.7e308, "batch_size": 8}, 16, "lr"),
        ({"lr": 0.1}, 16, "batch_size"),
        ({"lr": 0.1, "batch_size": 8.5}, 16, "batch_size"),
        ({"lr": 0.1, "batch_size": 0}, 16, "batch_size"),
        ({"lr": 0.1, "batch_size": 8}, 0, "batch"),
        ({"lr": 0.1, "batch_size": 8}, float("inf"), "batch"),
        ({"lr": 0.1, "batch_size": 8, "beta1": 1.0}, 16, "beta1"),
        ({"lr": 0.1, "batch_size": 8, "eps": -1.0}, 16, "eps"),
        ({"lr": 0.1, "batch_size": 8, "weight_decay": -1.0}, 16, "weight_decay"),
        ({"lr": 0.1, "batch_size": 8, "warmup_steps": -1}, 16, "warmup_steps"),
    ],
)
def test_impossible_values_are_named(config: dict[str, Any], batch: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        scale(config, batch, optimizer="adamw", rule="sde")
    assert caught.value.field == field


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="sqrt"):
        scale(ADAM, 256, optimizer="adam", rule="cubic")
    with pytest.raises(UnknownName, match="adamw"):
        scale(ADAM, 256, optimizer="adamx", rule="sqrt")
    with pytest.raises(InvalidInput, match="optimizer"):
        scale(ADAM, 256, rule="sqrt")
    with pytest.raises(InvalidInput, match="fixed"):
        scale(ADAM, 256, optimizer="adam", rule="sqrt", fixed="samples")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="noise_scale"):
        scale(ADAM, 256, optimizer="adam", rule="gain", noise_scale=-1.0)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_same_batch_size_changes_nothing(rule: str) -> None:
    config = ADAM | {"weight_decay": 0.1, "warmup_steps": 10, "steps": 100}
    scaled = scale(config, 128, optimizer="adamw", rule=rule, noise_scale=1e4)
    assert scaled.config == pytest.approx(config)
    assert scaled.multiplier == 1


@given(st.sampled_from(["sqrt", "sde", "gain", "half_life", "surge", "keep"]), st.integers(0, 3))
@settings(deadline=None, derandomize=True)
def test_there_and_back(rule: str, power: int) -> None:
    config = ADAM | {"weight_decay": 0.1}
    there = scale(config, 128 * 2**power, optimizer="adamw", rule=rule, noise_scale=1e5).config
    back = scale(there, 128, optimizer="adamw", rule=rule, noise_scale=1e5).config
    assert back == pytest.approx(config, rel=1e-9)


def test_json_and_text() -> None:
    scaled = scale(
        {"lr": 0.1, "batch_size": 256, "clip_norm": 1.0}, 16384, optimizer="sgd", rule="linear"
    )
    document = json.loads(json.dumps(scaled.to_dict()))
    assert document["config"]["lr"] == pytest.approx(6.4)
    assert document["source"].startswith("Goyal")
    text = str(scaled)
    assert "8192" in text
    assert "warm-up" in text
    assert "clip_norm" in text


def test_every_optimizer_has_traits_and_every_average_is_its_hyperparameter() -> None:
    assert set(optimizers.names()) <= set(TRAITS)
    for name in optimizers.names():
        known, hyper = traits(name), optimizers.get(name).hyper
        assert set(known.averages) <= set(hyper), name
        assert known.second_moment in ("", *known.averages)
