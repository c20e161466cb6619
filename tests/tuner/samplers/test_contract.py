"""Every registered sampler: inside the space, the same again, never twice the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tuner import samplers
from tuner.errors import InvalidInput
from tuner.samplers import COMPLETE, DIVERGED, PARTIAL, History
from tuner.spaces import Space

SPACES = {
    "mixed": Space.parse(
        {
            "lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
            "dropout": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1},
            "width": {"type": "int", "low": 1, "high": 512, "log": True},
            "depth": {"type": "int", "low": 1, "high": 9, "step": 2},
            "act": {"type": "categorical", "choices": ["relu", None, True, 2]},
            "k": 3,
        }
    ),
    "conditional": Space.parse(
        {
            "o": {"type": "categorical", "choices": ["sgd", "adamw"]},
            "m": {"type": "float", "low": 0, "high": 1, "when": {"o": "sgd"}},
            "n": {"type": "categorical", "choices": [True, False], "when": {"o": "sgd"}},
            "d": {"type": "float", "low": 0, "high": 1, "when": {"n": False}},
            "b": {"type": "float", "low": 0.5, "high": 1, "when": {"o": "adamw"}},
        }
    ),
    "finite": Space.parse(
        {"a": {"type": "int", "low": 1, "high": 5}, "b": {"type": "categorical", "choices": [1, 2]}}
    ),
}
CASES = [
    (name, space)
    for name in samplers.names()
    for space in SPACES
    if name not in ("manual",) and (name != "grid" or space == "finite")
]


def filled(space: Space, n: int, seed: int = 0, objectives: int = 1) -> History:
    """A history of random trials, a few part-way, a few diverged; low in the first axis is good."""
    history = History(space, objectives)
    rng = np.random.default_rng(seed)
    for number in range(n):
        params = space.from_unit(rng.random(len(space.searched)))
        history.add(number, params, {"draw": number})
        value = float(history.unit[number][0] + 0.1 * rng.random())
        if number % 7 == 3:
            history.put(number, PARTIAL, step=2, last=value)
        elif number % 11 == 5:
            history.put(number, DIVERGED, step=1, last=9.0)
        else:
            history.put(
                number, COMPLETE, step=5, last=value, values=(value, 1 - value)[:objectives]
            )
    return history


def size(name: str) -> tuple[int, int]:
    """How long a history and how many proposals: enough for a model, few where each costs a fit."""
    return (12, 2) if name == "gp" else (30, 6)


def make(name: str, space: Space, seed: int = 0, objectives: int = 1) -> samplers.Sampler:
    return samplers.create({"name": name}, space=space, objectives=objectives, seed=seed)


@pytest.mark.parametrize(("name", "space"), CASES)
def test_samples_lie_inside(name: str, space: str) -> None:
    s = SPACES[space]
    n, k = size(name)
    history = History(s) if space == "finite" else filled(s, n)
    proposals = make(name, s).suggest(history, k, history.count)
    assert len(proposals) == k
    for p in proposals:
        assert s.check(p.params) == p.params, "every active parameter, nothing else, all legal"


@pytest.mark.parametrize(("name", "space"), CASES)
@pytest.mark.parametrize("fresh", [True, False])
def test_same_history_and_seed_same_suggestion(name: str, space: str, fresh: bool) -> None:
    s = SPACES[space]
    n = 0 if fresh else size(name)[0]
    history = History(s) if name == "grid" else filled(s, n)
    one = make(name, s).suggest(history, 2, n)
    history = History(s) if name == "grid" else filled(s, n)
    assert make(name, s).suggest(history, 2, n) == one


@pytest.mark.parametrize("name", [n for n in samplers.names() if n not in ("grid", "manual")])
def test_another_seed_another_suggestion(name: str) -> None:
    s = SPACES["mixed"]
    n = 6 if name == "gp" else 24  # before its first model: two searches may find one optimum
    one, two = (make(name, s, seed).suggest(filled(s, n), 3, n) for seed in (0, 1))
    assert [p.params for p in one] != [p.params for p in two]


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, c in samplers.registry.items()
        if c.most_objectives > 1 and n not in ("grid", "manual")  # they propose by rule
    ],
)
def test_several_objectives(name: str) -> None:
    s = SPACES["mixed"]
    n, k = size(name)
    history = filled(s, n, objectives=2)
    for p in make(name, s, objectives=2).suggest(history, k, n):
        assert s.contains(p.params)


@pytest.mark.parametrize(
    "name", [n for n, c in samplers.registry.items() if c.most_objectives == 1]
)
def test_single_objective_samplers_refuse_several(name: str) -> None:
    with pytest.raises(InvalidInput, match="several"):
        make(name, SPACES["mixed"], objectives=2)


@pytest.mark.parametrize(
    "name", [n for n in samplers.names() if n not in ("grid", "manual", "random", "qmc", "nsga2")]
)
def test_learns_where_the_good_points_are(name: str) -> None:
    """On a bowl, what is drawn late is better than what was drawn early."""
    space = Space.parse(
        {
            "x": {"type": "float", "low": 0, "high": 1},
            "y": {"type": "float", "low": 0, "high": 1},
        }
    )
    history = History(space)
    rng = np.random.default_rng(3)
    sampler = make(name, space, seed=5)
    number = 0
    drawn: list[float] = []
    rounds, k = (14, 2) if name == "gp" else (12, 6)
    for _ in range(rounds):
        sampler.refit(history)()
        for p in sampler.suggest(history, k, number):
            history.add(number, p.params, {"draw": number, "sampler": p.note})
            value = (p.params["x"] - 0.2) ** 2 + 0.3 * (p.params["y"] - 0.7) ** 2
            value += 1e-3 * rng.random()
            history.put(number, COMPLETE, step=1, last=value, values=(value,))
            drawn.append(value)
            number += 1
    # the lower quartile: a model also explores
    early, late = drawn[: len(drawn) // 3], drawn[-len(drawn) // 3 :]
    assert np.quantile(late, 0.25) < 0.6 * np.quantile(early, 0.25)


@pytest.mark.parametrize(("name", "space"), CASES)
def test_params_and_notes_are_plain_json(name: str, space: str) -> None:
    s = SPACES[space]
    history = History(s) if space == "finite" else filled(s, size(name)[0])
    for p in make(name, s).suggest(history, 1, history.count):
        for value in p.params.values():
            assert type(value) in (bool, int, float, str, type(None)), (name, value)
        note: Any = json.loads(json.dumps(p.note))
        assert note == p.note


@pytest.mark.parametrize(
    "wide",
    [
        {"type": "int", "low": 1, "high": 2**53, "log": True},
        {"type": "int", "low": -(2**53), "high": 2**53},
        {"type": "float", "low": 0.0, "high": 1.0, "step": 1e-7},
    ],
)
@pytest.mark.parametrize("name", [n for n in samplers.names() if n not in ("grid", "manual")])
def test_ranges_of_any_width_are_sampled_or_refused_by_name(name: str, wide: Any) -> None:
    """Optuna's GP lists every value of a range in steps: it asked for 128 PiB."""
    s = Space.parse({"x": {"type": "float", "low": 0, "high": 1}, "n": wide})
    if name == "gp":
        with pytest.raises(InvalidInput, match="values") as caught:
            make(name, s)
        assert caught.value.field == "space.n"
        return
    n, k = size(name)
    for p in make(name, s).suggest(filled(s, n), k, n):
        assert s.check(p.params) == p.params
