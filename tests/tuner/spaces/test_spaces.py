"""The search space: refusals by name, conditions, grids, the unit cube, widening."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tuner.errors import InvalidInput
from tuner.spaces import Constant, Float, Option, Prior, Scalar, Space, read_options, widen
from tuner.spaces.parameters import Searched

SETTINGS = settings(deadline=None, derandomize=True, max_examples=150)

FULL = {
    "optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": "sgd"}},
    "nesterov": {
        "type": "categorical",
        "choices": [True, False],
        "when": {"optimizer": ["sgd"]},
    },
    "dampening": {"type": "float", "low": 0, "high": 1, "step": 0.25, "when": {"nesterov": False}},
    "beta1": {"type": "float", "low": 0.8, "high": 0.99, "when": {"optimizer": "adamw"}},
    "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
    "epochs": {"type": "int", "low": 2, "high": 10, "step": 4},
    "schedule": "cosine",
    "clip": {"type": "constant", "value": 1.0, "when": {"optimizer": "sgd"}},
}


@pytest.mark.parametrize(
    ("raw", "field", "says"),
    [
        ([], "space", "not a mapping"),
        ({}, "space", "no parameter"),
        ({"1x": 1}, "space.1x", "not a name"),
        ({3: 1}, "space.3", "not a name"),
        ({"x": [1, 2]}, "space.x", "type: float"),
        ({"x": float("nan")}, "space.x", "finite"),
        ({"x": 2**60}, "space.x", "beyond"),
        ({"x": {"low": 0, "high": 1}}, "space.x.type", "missing"),
        ({"x": {"type": "flaot", "low": 0}}, "space.x.type", "none of"),
        ({"x": {"type": ["float"], "low": 0}}, "space.x.type", "none of"),
        ({"x": {"type": "float", "low": 0, "hihg": 1}}, "space.x.hihg", "no such key"),
        ({"x": {"type": "float", "high": 1}}, "space.x.low", "missing"),
        ({"x": {"type": "float", "low": 0}}, "space.x.high", "missing"),
        ({"x": {"type": "float", "low": "1e-5", "high": 1}}, "space.x.low", "write 1e-05"),
        ({"x": {"type": "float", "low": True, "high": 1}}, "space.x.low", "not a number"),
        ({"x": {"type": "float", "low": math.nan, "high": 1}}, "space.x.low", "finite"),
        ({"x": {"type": "float", "low": 0, "high": math.inf}}, "space.x.high", "finite"),
        ({"x": {"type": "float", "low": 0, "high": 10**400}}, "space.x.high", "finite"),
        ({"x": {"type": "float", "low": -1e308, "high": 1e308}}, "space.x.high", "wider"),
        ({"x": {"type": "float", "low": 1, "high": 0}}, "space.x.high", "empty"),
        ({"x": {"type": "float", "low": 0, "high": 1, "log": True}}, "space.x.low", "above 0"),
        ({"x": {"type": "float", "low": 0, "high": 1, "log": "yes"}}, "space.x.log", "true or"),
        ({"x": {"type": "float", "low": 0, "high": 1, "step": 0.3}}, "space.x.step", "divide"),
        ({"x": {"type": "float", "low": 0, "high": 1, "step": 0}}, "space.x.step", "above 0"),
        ({"x": {"type": "float", "low": 0, "high": 1, "step": 1e-300}}, "space.x.step", "fine"),
        ({"x": {"type": "float", "low": 0, "high": 1, "step": 1e-9}}, "space.x.step", "fine"),
        (
            {"x": {"type": "float", "low": 1e6, "high": 1e6 + 1, "step": 1e-3}},
            "space.x.step",
            "leave it out",
        ),
        (
            {"x": {"type": "float", "low": 1, "high": 2, "step": 1, "log": True}},
            "space.x.step",
            "no step",
        ),
        ({"x": {"type": "int", "low": 0.5, "high": 2}}, "space.x.low", "whole"),
        ({"x": {"type": "int", "low": 0, "high": 2**60}}, "space.x.high", "beyond"),
        ({"x": {"type": "int", "low": 0, "high": 8, "log": True}}, "space.x.low", "starts at 1"),
        ({"x": {"type": "int", "low": 0, "high": 5, "step": 2}}, "space.x.step", "is 4"),
        ({"x": {"type": "categorical"}}, "space.x.choices", "missing"),
        ({"x": {"type": "categorical", "choices": []}}, "space.x.choices", "empty"),
        ({"x": {"type": "categorical", "choices": "ab"}}, "space.x.choices", "not a list"),
        ({"x": {"type": "categorical", "choices": [1, 1]}}, "space.x.choices[1]", "already"),
        ({"x": {"type": "categorical", "choices": [1, True]}}, "space.x.choices[1]", "already"),
        ({"x": {"type": "categorical", "choices": [[1]]}}, "space.x.choices[0]", "scalar|number"),
        ({"x": {"type": "categorical", "choices": list(range(1001))}}, "space.x.choices", "most"),
        ({"x": {"type": "constant"}}, "space.x.value", "missing"),
        (
            {"x": {"type": "float", "low": 0, "high": 1, "prior": {"center": 2, "spread": 1}}},
            "space.x.prior.center",
            "outside",
        ),
        (
            {"x": {"type": "float", "low": 0, "high": 1, "prior": {"center": 1, "spread": 0}}},
            "space.x.prior.spread",
            "outside",
        ),
        (
            {"x": {"type": "float", "low": 0, "high": 1, "prior": {"center": 1, "spred": 0}}},
            "space.x.prior.spred",
            "only",
        ),
        ({"x": {"type": "float", "low": 0, "high": 1, "prior": 3}}, "space.x.prior", "neither"),
        ({"x": {"type": "float", "low": 0, "high": 1, "default": 2}}, "space.x.default", "not"),
        ({"x": {"type": "float", "low": 0, "high": 1, "when": "y"}}, "space.x.when", "mapping"),
        ({"x": {"type": "constant", "value": 1, "when": {"y": 1}}}, "space.x.when.y", "not in"),
        (
            {
                "y": {"type": "float", "low": 0, "high": 1},
                "x": {"type": "constant", "value": 1, "when": {"y": 1}},
            },
            "space.x.when.y",
            "distinct",
        ),
        (
            {"y": "a", "x": {"type": "constant", "value": 1, "when": {"y": "b"}}},
            "space.x.when.y",
            "never takes",
        ),
        (
            {"y": "a", "x": {"type": "constant", "value": 1, "when": {"y": []}}},
            "space.x.when.y",
            "empty",
        ),
        (
            {
                "x": {"type": "constant", "value": 1, "when": {"y": 1}},
                "y": {"type": "constant", "value": 1, "when": {"x": 1}},
            },
            "space.x.when",
            "circle",
        ),
    ],
)
def test_each_mistake_is_refused_by_name(raw: object, field: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        Space.parse(raw)
    assert caught.value.field == field


def test_too_many_parameters() -> None:
    with pytest.raises(InvalidInput, match="at most 200"):
        Space.parse({f"x{i}": i for i in range(201)})


def test_written_form_round_trips() -> None:
    raw = FULL | {
        "a": {"type": "float", "low": 1e-3, "high": 1.0, "prior": {"center": 0.1, "spread": 0.2}},
        "b": {"type": "float", "low": 1e-3, "high": 1.0, "log": True, "prior": "none"},
        "c": {
            "type": "float",
            "low": 0.8,
            "high": 0.99,
            "prior": {"center": 0.9, "spread": 0.7, "scale": "complement"},
        },
        "d": None,
    }
    space = Space.parse(raw)
    assert Space.parse(space.to_dict()) == space
    assert space.parameters["schedule"] == Constant("cosine")
    assert list(space.to_dict()) == list(raw)


def test_conditions_several_levels_deep() -> None:
    space = Space.parse(FULL)
    base = {"lr": 0.01, "batch_size": 32, "epochs": 6}
    adamw = space.fill(base | {"optimizer": "adamw", "beta1": 0.9, "momentum": 0.5})
    assert adamw == base | {"optimizer": "adamw", "beta1": 0.9, "schedule": "cosine"}
    sgd = space.fill(
        base | {"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "dampening": 0.5}
    )
    assert sgd["dampening"] == 0.5
    assert sgd["clip"] == 1.0
    with_nesterov = space.fill(
        base | {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "dampening": 0.5}
    )
    assert "dampening" not in with_nesterov
    # a child written before its parent is ordered after it
    swapped = Space.parse(dict(reversed(FULL.items())))
    assert swapped.order.index("dampening") > swapped.order.index("nesterov")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"x": 0.5, "z": 1}, "params.z"),
        ({}, "params.x"),
        ({"x": 2.0}, "params.x"),
        ({"x": "a"}, "params.x"),
        ({"x": math.nan}, "params.x"),
        ({"x": True}, "params.x"),
        ({"x": 0.5, "y": 2}, "params.y"),
        ({"x": 0.5, "mode": "slow"}, "params.k"),
        ({"x": 0.5, "mode": "slow", "k": 3}, "params.k"),
        ({"x": 0.5, "mode": "slow", "k": 1.5}, "params.k"),
        ({"x": 0.5, "mode": "fast", "k": 1}, "params.k"),
    ],
)
def test_a_config_from_outside_is_checked_by_name(config: dict[str, object], field: str) -> None:
    space = Space.parse(
        {
            "x": {"type": "float", "low": 0, "high": 1},
            "mode": {"type": "categorical", "choices": ["fast", "slow"]},
            "y": 1,
            "k": {"type": "int", "low": 1, "high": 2, "when": {"mode": "slow", "y": 1}},
        }
    )
    with pytest.raises(InvalidInput) as caught:
        space.check({"mode": "fast", **config} if "x" in config else config)
    assert caught.value.field == field


def test_a_stepped_value_as_people_write_it_is_the_grids_own() -> None:
    space = Space.parse({"x": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.1}})
    third = list(space.grid())[3]
    assert third["x"] != 0.3
    assert space.check({"x": 0.3}) == third
    assert space.key({"x": 0.3}) == space.key(third) != space.key({"x": 0.4})
    whole = Space.parse({"x": {"type": "float", "low": 0, "high": 2}}).check({"x": 1})["x"]
    assert isinstance(whole, float)


@pytest.mark.parametrize("low", [1e-3, 1e300])
def test_a_log_range_without_width_in_logs_is_refused(low: float) -> None:
    raw: dict[str, Any] = {
        "type": "float",
        "low": low,
        "high": math.nextafter(low, math.inf),
        "log": True,
    }
    with pytest.raises(InvalidInput, match=r"space\.x\.high"):
        Space.parse({"x": raw})
    assert Space.parse({"x": {**raw, "high": low}}).from_unit(np.array([0.5])) == {"x": low}


def test_check_returns_params_without_constants() -> None:
    space = Space.parse(
        {
            "n": {"type": "int", "low": 1, "high": 3},
            "x": 1,
            "f": {"type": "float", "low": 0, "high": 2},
        }
    )
    assert space.check({"n": 2.0, "x": 1, "f": 1}) == {"n": 2, "f": 1.0}
    assert isinstance(space.check({"n": 2.0, "f": 1})["n"], int)


def test_an_inactive_value_is_refused() -> None:
    space = Space.parse(FULL)
    config = {"optimizer": "adamw", "lr": 0.01, "beta1": 0.9, "batch_size": 32, "epochs": 6}
    with pytest.raises(InvalidInput, match="only when optimizer is sgd") as caught:
        space.check(config | {"momentum": 0.5})
    assert caught.value.field == "params.momentum"


def test_true_is_not_one() -> None:
    space = Space.parse({"x": {"type": "categorical", "choices": [True, "a"]}})
    assert space.contains({"x": True})
    assert not space.contains({"x": 1})
    assert space.key({"x": True}) != (("x", "", 1),)


def test_optuna_distributions() -> None:
    dist = Space.parse(FULL).distributions()
    assert dist["lr"] == FloatDistribution(1e-5, 0.1, log=True)
    assert dist["batch_size"] == IntDistribution(16, 256, log=True)
    assert dist["optimizer"] == CategoricalDistribution(("adamw", "sgd"))
    assert "schedule" not in dist


def test_grid_is_exact_and_conditional() -> None:
    raw = {
        "a": {"type": "int", "low": 1, "high": 5, "step": 2},
        "b": {"type": "float", "low": 0, "high": 1, "step": 0.25},
        "c": {"type": "categorical", "choices": [None, True, "x"]},
        "k": 7,
    }
    space = Space.parse(raw)
    points = list(space.grid())
    assert space.grid_size == len(points) == 45
    expected = set(itertools.product([1, 3, 5], [0, 0.25, 0.5, 0.75, 1.0], [None, True, "x"]))
    assert {(p["a"], p["b"], p["c"]) for p in points} == expected

    deep = Space.parse(
        {
            "o": {"type": "categorical", "choices": ["s", "a", "z"]},
            "m": {"type": "int", "low": 0, "high": 4, "when": {"o": "s"}},
            "n": {"type": "categorical", "choices": [1, 2], "when": {"m": [0, 1], "o": "s"}},
            "w": {"type": "int", "low": 1, "high": 3},
        }
    )
    points = list(deep.grid())
    assert deep.grid_size == len(points) == (2 * 2 + 3 + 2) * 3
    assert len({deep.key(p) for p in points}) == len(points)
    assert all(deep.contains(p) for p in points)


def test_grid_refuses_a_continuum() -> None:
    space = Space.parse({"lr": {"type": "float", "low": 0, "high": 1}, "n": 1})
    assert space.grid_size is None
    with pytest.raises(InvalidInput) as caught:
        list(space.grid())
    assert caught.value.field == "space.lr"


# --- the unit cube --------------------------------------------------------------------------------

finite = st.floats(-1e6, 1e6)


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, object]:
    kind = draw(st.sampled_from(["float", "log", "step", "int", "intlog", "intstep", "choice"]))
    if kind == "choice":
        scalars = st.one_of(st.none(), st.booleans(), finite, st.text("ab", max_size=3))
        choices = draw(st.lists(scalars, min_size=1, max_size=6))
        unique: list[object] = []
        for choice in choices:
            if choice not in unique:
                unique.append(choice)
        return {"type": "categorical", "choices": unique}
    if kind == "log":
        low = draw(st.floats(1e-12, 1e3))
        wide = draw(st.just(1.0) | st.floats(1 + 1e-9, 1e9))  # between, logarithms are equal
        return {"type": "float", "low": low, "high": low * wide, "log": True}
    if kind == "float":
        low = draw(finite)
        return {"type": "float", "low": low, "high": low + draw(st.floats(0, 1e6))}
    if kind == "step":
        low, step = draw(st.integers(-50, 50)), draw(st.sampled_from([0.1, 0.25, 1.5, 3.0]))
        return {
            "type": "float",
            "low": low * step,
            "high": (low + draw(st.integers(0, 200))) * step,
            "step": step,
        }
    if kind == "intlog":
        low_int = draw(st.integers(1, 1000))
        return {
            "type": "int",
            "low": low_int,
            "high": low_int + draw(st.integers(0, 5000)),
            "log": True,
        }
    low_int, step_int = draw(st.integers(-1000, 1000)), draw(st.integers(1, 7))
    if kind == "int":
        step_int = 1
    high = low_int + step_int * draw(st.integers(0, 300))
    return {"type": "int", "low": low_int, "high": high, "step": step_int}


spaces = st.dictionaries(st.sampled_from("abcdef"), parameters(), min_size=1, max_size=6).map(
    Space.parse
)


@given(spaces, st.randoms(use_true_random=False))
@SETTINGS
def test_unit_cube_round_trip(space: Space, random: object) -> None:
    u = np.array([random.random() for _ in space.searched])  # type: ignore[attr-defined]
    params = space.from_unit(u)
    assert space.contains(params)
    unit = space.to_unit(params)
    assert ((unit >= 0) & (unit <= 1)).all()
    again = space.from_unit(unit)
    for name in space.searched:
        if isinstance(space.parameters[name], Float) and space.parameter(name).size is None:
            assert again[name] == pytest.approx(params[name], rel=1e-9, abs=1e-9)
        else:
            assert again[name] == params[name]
            assert isinstance(again[name], bool) == isinstance(params[name], bool)
    assert Space.parse(space.to_dict()) == space


@given(spaces, st.integers(0, 1))
@SETTINGS
def test_corners_are_legal(space: Space, corner: int) -> None:
    assert space.contains(space.from_unit(np.full(len(space.searched), float(corner))))


def test_unit_cells_are_equally_likely() -> None:
    space = Space.parse({"n": {"type": "int", "low": 1, "high": 4}})
    drawn = [space.from_unit(np.array([u]))["n"] for u in (np.arange(4000) + 0.5) / 4000]
    assert [drawn.count(n) for n in (1, 2, 3, 4)] == [1000] * 4


def test_inactive_axes_are_nan() -> None:
    space = Space.parse(FULL)
    params = space.from_unit(np.full(len(space.searched), 0.25))  # adamw
    unit = dict(zip(space.searched, space.to_unit(params), strict=True))
    assert math.isnan(unit["momentum"])
    assert not math.isnan(unit["beta1"])


# --- priors ---------------------------------------------------------------------------------------


@given(
    st.sampled_from(["linear", "log", "complement"]),
    st.floats(0.01, 0.99),
    st.floats(0.01, 3),
    st.floats(1e-6, 1 - 1e-6),
)
@SETTINGS
def test_prior_draws_lie_inside(scale: str, center: float, spread: float, u: float) -> None:
    low, high = 0.3, 0.6
    prior = Prior(center, spread, scale)  # type: ignore[arg-type]  # a sampled literal
    (drawn,) = prior.draw(np.array([u]), low, high)
    assert low <= drawn <= high


HALF = np.array([0.5])


def test_prior_median_is_its_center() -> None:
    assert Prior(1e-3, 0.5, "log").draw(HALF, 1e-6, 1.0) == pytest.approx(1e-3, rel=1e-6)
    assert Prior(0.9, 0.5, "complement").draw(HALF, 0.0, 0.99) == pytest.approx(0.9, rel=1e-6)


def test_a_prior_far_outside_the_range_draws_at_its_edge() -> None:
    assert Prior(1e-30, 0.1, "log").draw(HALF, 0.1, 1.0) == pytest.approx(0.1, rel=0.05)
    assert Prior(1e30, 0.1, "log").draw(HALF, 0.1, 1.0) == pytest.approx(1.0, rel=0.05)


def test_priors_come_from_the_parameter_else_the_optimizer() -> None:
    space = Space.parse(
        {
            "optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
            "lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
            "eps": {"type": "float", "low": 1e-9, "high": 1.0, "log": True, "prior": "none"},
            "beta1": {
                "type": "float",
                "low": 0.5,
                "high": 0.9,
                "prior": {"center": 0.8, "spread": 0.1},
            },
            "weight_decay": {"type": "float", "low": 0.0, "high": 1.0},
        }
    ).with_priors(
        {
            "adamw": {"lr": Prior(1e-3, 1, "log"), "eps": Prior(1e-8, 2, "log")},
            "sgd": {"lr": Prior(0.03, 0.7, "log"), "weight_decay": Prior(1e-4, 1, "log")},
        }
    )
    assert space.prior("lr", {"optimizer": "adamw"}) == Prior(1e-3, 1, "log")
    assert space.prior("lr", {"optimizer": "sgd"}) == Prior(0.03, 0.7, "log")
    assert space.prior("eps", {"optimizer": "adamw"}) is None
    assert space.prior("beta1", {"optimizer": "sgd"}) == Prior(0.8, 0.1, "linear")
    assert space.prior("weight_decay", {"optimizer": "sgd"}) is None  # no logarithm at 0


def test_the_optimizer_is_drawn_before_what_its_priors_are_of() -> None:
    space = Space.parse(
        {
            "lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
            "optimizer": {"type": "categorical", "choices": ["a", "b"], "when": {"kind": "x"}},
            "kind": {"type": "categorical", "choices": ["x", "y"]},
        }
    ).with_priors({"a": {"lr": Prior(0.1, 0.1, "log")}})
    believed = {}

    def choose(name: str, parameter: Searched, params: Mapping[str, Any]) -> Scalar:
        believed[name] = space.prior(name, params)
        return parameter.from_unit(0.2)

    assert space.chosen(choose).keys() == {"kind", "optimizer", "lr"}
    assert believed["lr"] == Prior(0.1, 0.1, "log")


# --- widening -------------------------------------------------------------------------------------


def test_widening_keeps_earlier_trials_valid() -> None:
    old = Space.parse(
        {
            "lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
            "batch_size": {"type": "categorical", "choices": [16, 32]},
            "n": {"type": "int", "low": 2, "high": 8, "step": 2},
            "schedule": "cosine",
        }
    )
    new = Space.parse(
        {
            "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
            "batch_size": {"type": "categorical", "choices": [64, 32, 16]},
            "n": {"type": "int", "low": 0, "high": 10, "step": 1},
            "schedule": {"type": "categorical", "choices": ["linear", "cosine"]},
            "dropout": {"type": "float", "low": 0, "high": 0.5, "default": 0.0},
        }
    )
    wide = widen(old, new)
    rng = np.random.default_rng(0)
    for _ in range(50):
        params = old.from_unit(rng.random(len(old.searched)))
        assert wide.contains(params)
        assert not np.isnan(wide.to_unit(params)).any()
    assert wide.fill({"lr": 1e-3, "batch_size": 16, "n": 2})["schedule"] == "cosine"
    assert wide.parameters["batch_size"].choices == (16, 32, 64)  # type: ignore[union-attr]
    assert Space.parse(wide.to_dict()) == wide


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lr": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True}}, "space.lr.low"),
        ({"lr": {"type": "float", "low": 1e-4, "high": 1e-3, "log": True}}, "space.lr.high"),
        ({"lr": {"type": "float", "low": 1e-4, "high": 1e-2}}, "space.lr.log"),
        ({"lr": {"type": "categorical", "choices": [1e-3]}}, "space.lr.type"),
        ({"n": {"type": "int", "low": 1, "high": 9, "step": 2}}, "space.n.step"),
        ({"b": {"type": "categorical", "choices": [16]}}, "space.b.choices"),
        ({"s": "linear"}, "space.s"),
        ({"new": {"type": "int", "low": 0, "high": 1}}, "space.new.default"),
        ({"new": 3}, "space.new"),
        ({"optimizer": "sgd"}, "space.optimizer"),
        ({"new": {"type": "constant", "value": 3, "when": {"b": 16}}}, "space.new"),
        (
            {"new": {"type": "int", "low": 0, "high": 1, "when": {"b": 16}}},
            "space.new.default",
        ),
        (
            {
                "n": {
                    "type": "int",
                    "low": 2,
                    "high": 8,
                    "step": 2,
                    "when": {"b": 16},
                }
            },
            "space.n.when",
        ),
    ],
)
def test_widening_refuses_what_would_break_earlier_trials(
    change: dict[str, object], field: str
) -> None:
    raw = {
        "lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
        "b": {"type": "categorical", "choices": [16, 32]},
        "n": {"type": "int", "low": 2, "high": 8, "step": 2},
        "s": "cosine",
    }
    with pytest.raises(InvalidInput) as caught:
        widen(Space.parse(raw), Space.parse(raw | change), known={"optimizer": "adamw"})
    assert caught.value.field == field


def test_a_new_constant_is_what_earlier_trials_had_or_does_not_concern_them() -> None:
    old = Space.parse({"o": {"type": "categorical", "choices": ["a"]}})
    new = Space.parse(
        {
            "o": {"type": "categorical", "choices": ["a", "b"]},
            "optimizer": "adamw",
            "x": {"type": "constant", "value": 1, "when": {"o": "b"}},
            "s": {"type": "categorical", "choices": ["flat", "wave"], "default": "flat"},
            "length": {"type": "constant", "value": 7, "when": {"s": "wave"}},
            "depth": {"type": "int", "low": 1, "high": 2, "when": {"s": "wave"}},
        }
    )
    wide = widen(old, new, known={"optimizer": "adamw"})
    assert wide.fill({"o": "a"}) == {"o": "a", "optimizer": "adamw", "s": "flat"}


def test_a_new_branch_needs_no_default() -> None:
    old = {"o": {"type": "categorical", "choices": ["a"]}}
    new = {
        "o": {"type": "categorical", "choices": ["a", "b"]},
        "x": {"type": "float", "low": 0, "high": 1, "when": {"o": "b"}},
    }
    assert widen(Space.parse(old), Space.parse(new)).contains({"o": "a"})


@given(spaces, st.data())
@SETTINGS
def test_widening_is_sound(old: Space, data: st.DataObject) -> None:
    """Whatever grows, in whichever direction, every point of the old space is one of the new."""
    raw = old.to_dict()
    for spec in raw.values():
        if spec["type"] == "categorical":
            spec["choices"] = [*reversed(spec["choices"]), "new"]
            continue
        by = spec.get("step", 1) * data.draw(st.integers(0, 3))
        spec["high"] += by
        if not spec.get("log"):
            spec["low"] -= by
        if spec["type"] == "float" and "step" in spec and data.draw(st.booleans()):
            del spec["step"]
    wide = widen(old, Space.parse(raw))
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert wide.contains(old.from_unit(rng.random(len(old.searched))))


# --- options --------------------------------------------------------------------------------------


def test_options_are_read_and_refused_by_name() -> None:
    declared = {
        "n": Option(10, "int", low=1),
        "q": Option(0.5, "float", low=0, high=1, open_low=True),
        "on": Option(True, "bool"),
        "how": Option("a", "choice", choices=("a", "b")),
        "auto": Option(None, "int", low=1),
    }
    read = read_options(declared, {"n": 3.0, "q": 1}, "sampler", "tpe")
    assert read == {"n": 3, "q": 1.0, "on": True, "how": "a", "auto": None}
    bad = {"n": 0, "q": 0, "on": 1, "how": "c", "zzz": 1, "auto": math.inf}
    for name, value in (*bad.items(), ("n", 10**400), ("n", 10**17), ("q", 10**400)):
        with pytest.raises(InvalidInput) as caught:
            read_options(declared, {name: value}, "sampler", "tpe")
        assert caught.value.field == f"sampler.{name}"


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0, 1, 1e-7), (2e5, 2e5 + 1, 0.01), (-3, 3, 3e-7)]
)
def test_optuna_knows_every_value_of_the_finest_steps_again(
    low: float, high: float, step: float
) -> None:
    space = Space.parse({"x": {"type": "float", "low": low, "high": high, "step": step}})
    known = space.distributions()["x"]
    for u in np.random.default_rng(0).random((500, 1)):
        value = space.from_unit(u)["x"]
        assert known._contains(known.to_internal_repr(value))
