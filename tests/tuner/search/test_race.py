"""The default search: what the race takes, and that it finds what halving alone loses."""

from __future__ import annotations

import importlib.util
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner.pruners import Board, Track
from tuner.pruners.auto import AutoPruner
from tuner.search import Budget
from tuner.spaces import Space

_spec = importlib.util.spec_from_file_location(
    "simulation", Path(__file__).with_name("simulation.py")
)
assert _spec is not None
assert _spec.loader is not None
simulation = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(simulation)
Simulation, SPACE = simulation.Simulation, simulation.SPACE

AUTO = ({"name": "auto"}, {"name": "auto"})
PLANE = Space.parse({n: {"type": "float", "low": 0, "high": 1} for n in "xy"})


def crossing(params: dict[str, Any], step: int) -> float:
    """Good ends begin badly: what leads after one step is not what ends best."""
    end = (params["x"] - 0.8) ** 2 + 0.2 * (params["y"] - 0.3) ** 2
    return float(end + (1.0 - end) * math.exp(-step / 5) * (1.0 + 0.5 * params["x"]))


def best(sim: Any) -> float:
    return min(v for r in sim.records.values() for v in r.curve.values())


@pytest.mark.parametrize("workers", [1, 16])
def test_it_finds_slow_starters(workers: int) -> None:
    found = []
    for seed in range(2):
        sim = Simulation(
            *AUTO,
            Budget(total_epochs=300 if workers == 1 else 500),
            max_step=20,
            space=PLANE,
            seed=seed,
            curve=crossing,
        )
        sim.refits = True
        assert sim.run(workers) == "total_epochs"
        found.append(best(sim))
        complete = [r for r in sim.records.values() if r.state == "complete"]
        assert len(complete) >= 4
    assert max(found) < 0.12  # 0.026 is the least there is; half of all points end above 0.3


def test_priors_help_and_wrong_ones_do_not_ruin_it() -> None:
    def run(center: float) -> float:
        space = Space.parse(
            {
                "lr": {
                    "type": "float",
                    "low": 1e-8,
                    "high": 10.0,
                    "log": True,
                    "prior": {"center": center, "spread": 0.5},
                },
                "x": {"type": "float", "low": 0, "high": 1},
            }
        )

        def curve(params: dict[str, Any], step: int) -> float:
            off = abs(math.log10(params["lr"]) + 3) / 3
            return min(1.0, off) + 0.1 * params["x"] + math.exp(-step / 2)

        sims = [
            Simulation(
                *AUTO, Budget(total_epochs=160), max_step=16, space=space, seed=s, curve=curve
            )
            for s in range(2)
        ]
        for sim in sims:
            sim.refits = True
            sim.run(1)
        return float(np.median([best(s) for s in sims]))

    right, wrong = run(1e-3), run(1e-6)
    assert right < 0.1
    assert wrong < 0.5


def test_what_halving_has_earned() -> None:
    pruner = AutoPruner({}, 16, PLANE, 0)
    assert pruner.rungs[0] == (1, 2, 4, 8, 16)
    board = Board(by_best=True)
    for number in range(4):
        reached = (4, 2, 2, 1)[number]
        curve = {s: number + 1.0 / s for s in range(1, reached + 1)}
        board.add(Track(number, curve, reached, paused=True))
    # of four at step 1 the better two earn 2; of the three at step 2 the best earns 4
    assert pruner.earned(board) == {0: 4, 1: 2, 2: 1, 3: 1}


def test_a_fit_runs_beside_everything_else() -> None:
    sim = Simulation(*AUTO, Budget(total_epochs=200), max_step=16, space=PLANE, curve=crossing)
    stop = threading.Event()
    failed: list[BaseException] = []

    def fits() -> None:
        try:
            while not stop.is_set():
                if sim.search.stale:
                    sim.search.refit()
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=fits)
    thread.start()
    try:
        assert sim.run(4) == "total_epochs"
    finally:
        stop.set()
        thread.join(30)
    assert not failed
    assert sim.epochs == 200


def test_a_plan_for_a_searched_schedule_starts_at_a_tenth() -> None:
    space = Space.parse({"schedule": {"type": "categorical", "choices": ["cosine", "constant"]}})
    assert AutoPruner({}, 50, space, 0).rungs[0] == (5, 10, 20, 50)
    assert AutoPruner({}, 50, PLANE, 0).rungs[0] == (1, 2, 4, 8, 16, 32, 50)


@pytest.mark.parametrize("workers", [1, 64])
def test_a_bound_on_trials_does_not_train_them_all_to_the_end(workers: int) -> None:
    sim = Simulation(*AUTO, Budget(trials=40), max_step=20, seed=2)
    sim.refits = True
    assert sim.run(workers) == "trials"
    complete = [r for r in sim.records.values() if r.state == "complete"]
    assert 3 <= len(complete) <= 15
    assert sim.epochs < 0.5 * 40 * 20
