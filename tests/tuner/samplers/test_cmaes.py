"""The evolution strategy is played again from the trials alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from tuner.search import Budget, Objective, Record, Search
from tuner.spaces import Space

SPACE = Space.parse({f"x{i}": {"type": "float", "low": -5, "high": 5} for i in range(4)})


def rotated(p: dict[str, Any]) -> float:
    x = np.array(list(p.values())) - 1.0
    return float(
        100 * (x[0] + x[1]) ** 2 + (x[0] - x[1]) ** 2 + 30 * (x[2] - x[3]) ** 2 + x[3] ** 2
    )


def make() -> Search:
    return Search(
        SPACE,
        {"name": "cmaes"},
        {"name": "none"},
        [Objective("f")],
        max_step=1,
        budget=Budget(trials=10_000),
        seed=3,
    )


def test_converges_and_any_restart_continues() -> None:
    search, records = make(), []
    for batch in range(50):
        if batch % 5 == 2:
            search = make()
            search.sync(records)
        for s in search.suggest(8):
            value = rotated(s.params)
            number = len(records)
            records.append(Record(number, s.params, "complete", (value,), {1: value}, note=s.note))
        search.sync(records[-8:])
    values = [r.values[0] for r in records if r.values]
    assert min(values) < 1e-3 * min(values[:40])
    generations = [r.note["sampler"]["generation"] for r in records]
    assert generations == sorted(generations)
    assert generations[-1] == 49


def test_restarts_change_nothing_with_trials_ending_in_any_order() -> None:
    rng = np.random.default_rng(0)
    search = make()
    records: list[Record] = []
    running: list[int] = []
    for _ in range(40):
        for s in search.suggest(3):
            records.append(Record(len(records), s.params, "running", busy=True, note=s.note))
            running.append(len(records) - 1)
        search.sync(records)
        for number in rng.permutation(running)[: int(rng.integers(1, 6))].tolist():
            running.remove(number)
            value = rotated(dict(records[number].params))
            records[number] = Record(
                number, records[number].params, "complete", (value,), note=records[number].note
            )
        search.sync(records)
        fresh = make()
        fresh.sync(records)
        live = make()
        live.sync(reversed(records))
        assert fresh.suggest(2) == live.suggest(2)
    assert max(r.note["sampler"]["generation"] for r in records) >= 8
