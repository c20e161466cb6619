"""The grid: exact, resumable, shared, and then at its end."""

from __future__ import annotations

import numpy as np

from tuner.samplers import History, create
from tuner.samplers.sampler import untaken
from tuner.spaces import Space

SPACE = Space.parse(
    {
        "a": {"type": "int", "low": 1, "high": 4},
        "b": {"type": "float", "low": 0, "high": 1, "step": 0.5},
        "c": {"type": "categorical", "choices": ["x", "y"]},
    }
)


def test_every_point_once_also_when_resumed() -> None:
    history = History(SPACE)
    seen = []
    number = 0
    while True:
        grid = create({"name": "grid"}, space=SPACE, objectives=1, seed=0)  # restarted each time
        points = grid.suggest(history, 5, number)
        if not points:
            break
        for p in points:
            history.add(number, p.params, {})
            seen.append(SPACE.key(p.params))
            number += 1
    assert len(seen) == len(set(seen)) == SPACE.grid_size == 24
    assert grid.exhausted(history)


def test_a_point_that_was_enqueued_is_not_run_again() -> None:
    history = History(SPACE)
    history.add(0, {"a": 1, "b": 0.5, "c": "x"}, {})
    grid = create({"name": "grid"}, space=SPACE, objectives=1, seed=0)
    points = grid.suggest(history, 100, 0)
    assert len(points) == 23
    assert {"a": 1, "b": 0.5, "c": "x"} not in [p.params for p in points]


def test_the_last_point_of_a_finite_space_is_found() -> None:
    history = History(SPACE)
    points = list(SPACE.grid())
    for number, params in enumerate(points[:-1]):
        history.add(number, params, {})
    assert untaken(history, np.random.default_rng(0)) == points[-1]


def test_what_is_proposed_stays_to_be_proposed_until_it_is_taken() -> None:
    history = History(SPACE)
    grid = create({"name": "grid"}, space=SPACE, objectives=1, seed=0)
    points = list(SPACE.grid())
    for taken in (0, 2, 3, 1):
        for params in points[history.count : history.count + taken]:
            history.add(history.count, params, {})
        assert [p.params for p in grid.suggest(history, 4, 0)] == points[history.count :][:4]
        assert not grid.exhausted(history)
