"""The search as a pure object: budgets, order, restoring, outcomes."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner import pruners, samplers
from tuner.errors import InvalidInput
from tuner.search import Budget, Objective, Record, Search
from tuner.spaces import Space

_spec = importlib.util.spec_from_file_location(
    "simulation", Path(__file__).with_name("simulation.py")
)
assert _spec is not None
assert _spec.loader is not None
simulation = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(simulation)
Simulation, SPACE, random_walk = simulation.Simulation, simulation.SPACE, simulation.random_walk

CHEAP = ("random", "tpe", "auto")
LOSS = Objective("loss")
STEPPED = Space.parse(
    {"a": {"type": "int", "low": 1, "high": 3}, "b": {"type": "categorical", "choices": ["x", "y"]}}
)


def flat(params: dict[str, Any], step: int) -> float:
    return params["a"] + 1.0 / step + (params["b"] == "x")


# --- a fresh search that is told the records, and fitted to them, is the live one


@pytest.mark.parametrize("pruner", pruners.names())
@pytest.mark.parametrize("sampler", CHEAP)
@given(seed=st.integers(0, 10_000), moves=st.integers(0, 60))
@settings(deadline=None, derandomize=True, max_examples=4)
def test_restored_and_fitted_is_live(sampler: str, pruner: str, seed: int, moves: int) -> None:
    sim = Simulation({"name": sampler}, {"name": pruner}, Budget(trials=25), seed=seed)
    random_walk(sim, np.random.default_rng(seed), moves)
    fresh = sim.restored()
    assert fresh.exhausted == sim.search.exhausted
    if sim.slots:
        number = sim.slots[0]
        record = sim.records[number]
        step = max(record.curve, default=record.note.get("start", 0)) + 1
        value = sim.curve(dict(sim.records[number].params), step)
        assert fresh.observe(number, step, value) == sim.search.observe(number, step, value)
    fresh.refit()
    sim.search.refit()
    assert fresh.suggest(4) == sim.search.suggest(4)


@given(order=st.permutations(range(12)))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_records_may_come_in_any_order_and_twice(order: list[int]) -> None:
    sim = Simulation({"name": "tpe"}, {"name": "asha"}, Budget(trials=30))
    random_walk(sim, np.random.default_rng(1), 60)
    assert len(sim.records) >= 12
    records = list(sim.records.values())
    shuffled = [records[i] for i in order] + records[12:]
    one, two = sim.make(), sim.restored()
    one.sync(shuffled[:7])
    one.sync(shuffled)
    assert one.suggest(5) == two.suggest(5)


# --- budgets are exact


@pytest.mark.parametrize("pruner", pruners.names())
@pytest.mark.parametrize("k", [1, 5, 40])
def test_a_study_ends_with_exactly_its_trials(pruner: str, k: int) -> None:
    sim = Simulation({"name": "random"}, {"name": pruner}, Budget(trials=30))
    assert sim.run(k) == "trials"
    assert len(sim.records) == 30
    assert not any(r.busy for r in sim.records.values())
    complete = [r for r in sim.records.values() if r.state == "complete"]
    assert complete, "no trial came to the end"
    assert all(max(r.curve) == 8 for r in complete)
    assert sim.search.suggest(5) == []


@pytest.mark.parametrize("pruner", pruners.names())
@given(k=st.integers(1, 20), total=st.integers(1, 120), seed=st.integers(0, 100))
@settings(deadline=None, derandomize=True, max_examples=8)
def test_total_epochs_are_never_exceeded(pruner: str, k: int, total: int, seed: int) -> None:
    budget = Budget(total_epochs=total)
    sim = Simulation(
        {"name": "random"}, {"name": pruner}, budget, seed=seed, curve=flat, space=STEPPED
    )
    assert sim.run(k) == "total_epochs"
    assert sim.epochs == total


def test_a_restart_never_adds_an_epoch() -> None:
    for total in (17, 40, 41):
        sim = Simulation({"name": "random"}, {"name": "asha"}, Budget(total_epochs=total))
        for seed in range(30):
            random_walk(sim, np.random.default_rng(seed), 5)
            sim.search = sim.restored()
            assert sim.epochs <= total


def test_target_ends_the_study_at_once() -> None:
    budget = Budget(trials=1000, target=1.5)
    sim = Simulation({"name": "random"}, {"name": "none"}, budget, curve=flat, space=STEPPED)
    sim.lease(6)
    rounds = 0
    while sim.search.exhausted is None:
        for number in list(sim.slots):
            sim.train(number)
        rounds += 1
        assert rounds < 9
    assert sim.search.exhausted == "target"
    assert sim.restored().exhausted == "target"
    assert sim.search.suggest(3) == []
    for number in list(sim.slots):
        assert sim.train(number) in ("stop", "finish")
    best = [r for r in sim.records.values() if r.state == "complete"]
    assert len(best) >= 1
    assert min(v for r in best for v in r.curve.values()) <= 1.5


def aimed(objective: Objective = LOSS) -> Search:
    """A random search that ends at a target."""
    return Search(
        SPACE,
        {"name": "random"},
        {"name": "none"},
        [objective],
        max_step=5,
        budget=Budget(trials=10, target=0.9),
    )


def test_target_of_a_maximised_metric() -> None:
    search = aimed(Objective("accuracy", "maximize"))
    params = search.suggest(1)[0].params
    search.sync([Record(0, params, "running", busy=True, note={"draw": 0})])
    assert search.observe(0, 1, 0.89).action == "continue"
    assert search.exhausted is None
    assert search.observe(0, 2, 0.9).action == "finish"
    assert search.exhausted == "target"


def test_a_trial_that_breaks_the_constraint_does_not_meet_the_target() -> None:
    def told(constraint: float) -> str | None:
        search = aimed()
        params = {"optimizer": "adamw", "lr": 0.1, "batch_size": 16}
        search.sync([Record(0, params, "complete", (0.5,), constraint=constraint)])
        return search.exhausted

    assert told(-1.0) == "target"
    assert told(2.0) is None


@pytest.mark.parametrize("ending", ["running", "complete", "pruned", "fail"])
def test_the_target_is_met_by_what_kept_the_constraint_live_and_restored(ending: Any) -> None:
    live = aimed()
    params = live.suggest(1)[0].params
    record = Record(0, params, "running", busy=True, note={"draw": 0})
    live.sync([record])
    assert live.observe(0, 1, 0.5, violation=1.0).action == "continue"
    assert live.observe(0, 2, 1.5, violation=-1.0).action == "continue"
    curve = {1: 0.5, 2: 1.5}
    if ending != "running":
        values = (1.5,) if ending == "complete" else None
        live.finish(0, ending, values, None, -1.0)
        record = replace(record, state=ending, busy=False, values=values)
    restored = aimed()
    restored.sync([replace(record, curve=curve, constraint=-1.0)])
    assert live.exhausted is restored.exhausted is None


def test_a_trial_that_reached_the_target_and_diverged_at_once_has_not_met_it() -> None:
    search = aimed()
    search.suggest(1)
    params = {"optimizer": "adamw", "lr": 0.1, "batch_size": 16}
    search.sync([Record(0, params, "running", busy=True, note={"draw": 0})])
    search.report(0, 1, 0.5)
    search.report(0, 2, math.nan)
    assert search.decide(0).action == "stop"
    assert search.exhausted is None


def test_a_trial_taken_up_again_keeps_its_violation() -> None:
    def told(record: Record) -> Search:
        search = Search(
            SPACE,
            {"name": "random"},
            {"name": "none"},
            [Objective("loss")],
            max_step=8,
            budget=Budget(trials=1),
        )
        search.sync([record])
        return search

    params = {"optimizer": "adamw", "lr": 0.1, "batch_size": 16}
    waiting = Record(0, params, curve={1: 0.5}, constraint=2.0)
    live = told(waiting)
    assert [s.number for s in live.suggest(1)] == [0]
    restored = told(replace(waiting, state="running", busy=True))
    for search in (live, restored):
        assert search._memory.history.violation.tolist() == [2.0]


def test_seconds() -> None:
    sim = Simulation({"name": "random"}, {"name": "none"}, Budget(seconds=10.0))
    assert len(sim.lease(3, elapsed_seconds=9.9)) == 3
    assert sim.search.exhausted is None
    assert sim.lease(3, elapsed_seconds=10.0) == []
    assert sim.search.exhausted == "seconds"


# --- order and outcomes


def test_enqueued_trials_come_first_and_start_from_scratch() -> None:
    sim = Simulation({"name": "random"}, {"name": "asha"}, Budget(trials=4))
    sim.lease(1)
    number = sim.enqueue({"optimizer": "adamw", "lr": 0.01, "batch_size": 32})
    first = sim.lease(3)
    assert (first[0].number, first[0].start) == (number, 0)
    assert first[0].params["lr"] == 0.01
    assert [s.number for s in first[1:]] == [None, None]
    assert len(sim.records) == 4
    assert sim.run(2) == "trials"
    assert len(sim.records) == 4


def test_an_orphan_is_handed_out_again_with_the_steps_it_has() -> None:
    sim = Simulation(
        {"name": "random"}, {"name": "none"}, Budget(trials=3), curve=flat, space=STEPPED
    )
    sim.lease(1)
    sim.train(0)
    sim.train(0)
    sim.slots.clear()
    sim.change(0, busy=False)
    sim.search.sync([sim.records[0]])
    again = sim.search.suggest(1)[0]
    assert (again.number, again.start, again.until) == (0, 2, 8)


def test_manual_runs_what_is_enqueued_and_nothing_else() -> None:
    sim = Simulation({"name": "manual"}, {"name": "none"}, Budget(trials=2))
    assert sim.lease(4) == []
    assert sim.search.exhausted is None
    for lr in (0.1, 0.01):
        sim.enqueue({"optimizer": "adamw", "lr": lr, "batch_size": 32})
    assert sim.run(4) == "trials"


def test_a_diverged_trial_is_the_worst_and_keeps_its_curve() -> None:
    sim = Simulation({"name": "random"}, {"name": "none"}, Budget(trials=60))
    assert sim.run(4) == "trials"
    lost = [r for r in sim.records.values() if r.reason == "diverged"]
    assert lost
    assert all(r.state == "fail" and r.curve == {1: 3.0} for r in lost)
    history = sim.search._memory.history
    order = list(history.order())
    assert set(order[-len(lost) :]) == {r.number for r in lost}


def test_other_failures_teach_nothing_but_are_not_repeated() -> None:
    sim = Simulation({"name": "random"}, {"name": "none"}, Budget(), curve=flat, space=STEPPED)
    sim.lease(1)
    sim.slots.clear()
    sim.end(0, "fail", None, "oom")
    assert sim.search._memory.history.order().size == 0
    assert all(s.params != sim.records[0].params for s in sim.lease(5))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("pruner", pruners.names())
def test_a_bad_value_breaks_no_pruner(pruner: str, bad: float) -> None:
    sim = Simulation(
        {"name": "random"}, {"name": pruner}, Budget(trials=20), curve=flat, space=STEPPED
    )
    sim.lease(8)
    verdict = sim.search.observe(0, 1, bad)
    assert (verdict.action, verdict.reason) == ("stop", "diverged")
    sim.end(0, "fail", None, "diverged")
    sim.slots.remove(0)
    assert sim.run(8) == "trials"


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_maximising_is_minimising_the_negative(pruner: str) -> None:
    down = Simulation({"name": "tpe"}, {"name": pruner}, Budget(trials=30))
    up = Simulation({"name": "tpe"}, {"name": pruner}, Budget(trials=30), direction="maximize")
    down.run(3)
    up.run(3)
    for a, b in zip(down.records.values(), up.records.values(), strict=True):
        assert (a.params, a.state) == (b.params, b.state)
        assert {s: -v for s, v in b.curve.items()} == a.curve


def test_several_objectives() -> None:
    sim = Simulation({"name": "tpe"}, {"name": "auto"}, Budget(trials=25), objectives=2)
    assert sim.run(4) == "trials"
    with pytest.raises(InvalidInput) as caught:
        Simulation({"name": "tpe"}, {"name": "median"}, Budget(trials=25), objectives=2)
    assert caught.value.field == "pruner.name"


def test_warm_start_teaches_the_sampler_and_costs_no_trial() -> None:
    def made(warm: list[Record]) -> Search:
        return Search(
            SPACE,
            {"name": "tpe"},
            {"name": "none"},
            [Objective("loss")],
            max_step=3,
            budget=Budget(trials=5),
            warm_start=warm,
        )

    rng = np.random.default_rng(0)
    warm = []
    for n in range(40):
        params = SPACE.from_unit(rng.random(4))
        warm.append(Record(n, params, "complete", (abs(math.log10(params["lr"]) + 3),)))
    cold, told = made([]).suggest(5), made(warm).suggest(5)
    assert len(told) == 5
    assert [s.note["draw"] for s in told] == list(range(5))

    def off(suggestions: list[Any]) -> float:
        return float(np.mean([abs(math.log10(s.params["lr"]) + 3) for s in suggestions]))

    assert off(told) < off(cold)


def test_points_of_a_warm_start_are_tried_here_too() -> None:
    warm = [Record(i, p, "complete", (1.0,)) for i, p in enumerate(STEPPED.grid())]
    search = Search(
        STEPPED,
        {"name": "grid"},
        {"name": "none"},
        [Objective("loss")],
        max_step=1,
        budget=Budget(),
        warm_start=warm,
    )
    assert len(search.suggest(10)) == 6


@pytest.mark.parametrize("sampler", ["cmaes", "pso", "nsga2"])
def test_what_a_sampler_noted_elsewhere_is_not_read(sampler: str) -> None:
    def make(warm: list[Record]) -> Search:
        return Search(
            SPACE,
            {"name": sampler},
            {"name": "none"},
            [Objective("loss")],
            max_step=1,
            budget=Budget(trials=200),
            warm_start=warm,
        )

    first, records = make([]), list[Record]()
    for _ in range(12):
        for s in first.suggest(5):
            value = simulation.loss(s.params, 1)
            records.append(Record(len(records), s.params, "complete", (value,), note=s.note))
        first.sync(records[-5:])
    # Some were no points of the later space: numbers in notes would miss their trials.
    noted = records[37:]
    bare = [replace(record, note={}) for record in noted]
    assert make(noted).suggest(6) == make(bare).suggest(6)


@pytest.mark.parametrize(
    ("sampler", "pruner", "field"),
    [
        ({"name": "tpee"}, {"name": "none"}, "sampler.name"),
        ({}, {"name": "none"}, "sampler.name"),
        ({"name": "tpe", "n": 1}, {"name": "none"}, "sampler.n"),
        ({"name": "tpe", "n_startup_trials": 0}, {"name": "none"}, "sampler.n_startup_trials"),
        ({"name": "tpe"}, {"name": "ashaa"}, "pruner.name"),
        ({"name": "tpe"}, {"name": "asha", "reduction_factor": 1}, "pruner.reduction_factor"),
        ({"name": "grid"}, {"name": "none"}, "space.lr"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    sampler: dict[str, Any], pruner: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Simulation(sampler, pruner, Budget(trials=3))
    assert caught.value.field == field


def test_every_registered_setting_is_described() -> None:
    for cls in [c for _, c in samplers.registry.items()] + [c for _, c in pruners.registry.items()]:
        assert cls.summary.endswith(".")
        for option in cls.options.values():
            assert option.doc.endswith(".")
            if option.default is not None:
                assert option.read(option.default, "x") == option.default


def test_a_population_trains_on_and_copies_start_where_their_parents_stand() -> None:
    pbt = {"name": "pbt", "population": 6, "interval_steps": 2}
    sim = Simulation({"name": "random"}, pbt, Budget(trials=12), curve=flat, space=STEPPED)
    assert sim.run(6) == "trials"
    copies = [s for s in sim.started if s.copy_of is not None]
    assert len(copies) == 6
    for s in copies:
        assert s.number is None
        assert s.start in (2, 4, 6)
        assert s.start == s.note["start"]
        assert s.start in sim.records[s.copy_of].curve
    complete = [r for r in sim.records.values() if r.state == "complete"]
    assert len(complete) == 6, "as many as the population come to the end"


@pytest.mark.parametrize("pruner", ["asha", "auto", "hyperband", "median", "percentile"])
def test_reports_that_arrive_together_are_judged_together(pruner: str) -> None:
    """What becomes of a trial hangs on all reports of a round, not on their order."""

    def verdicts(order: list[int]) -> dict[int, str]:
        sim = Simulation(
            {"name": "random"}, {"name": pruner}, Budget(), curve=flat, space=STEPPED, max_step=20
        )
        sim.lease(6)
        until = max(sim.records[n].until for n in order)
        for step in range(1, until + 1):
            running = [n for n in order if step <= sim.records[n].until]
            for number in running:
                sim.search.report(number, step, flat(dict(sim.records[number].params), step))
        return {number: sim.search.decide(number).action for number in range(6)}

    assert verdicts([0, 1, 2, 3, 4, 5]) == verdicts([5, 3, 1, 0, 2, 4])


def test_a_value_that_breaks_the_constraint_is_no_target() -> None:
    sim = Simulation({"name": "random"}, {"name": "none"}, Budget(trials=5, target=0.5))
    sim.lease(2)
    assert sim.search.observe(0, 1, 0.4, violation=0.1).action == "continue"
    assert sim.search.exhausted is None
    assert sim.search.observe(1, 1, 0.4, violation=-0.1).reason == "target"
    assert sim.search.exhausted == "target"
    assert sim.search.observe(0, 2, 0.6, violation=0.1).action == "stop"


def test_a_parent_waits_until_its_copies_are_handed_out() -> None:
    """Once it goes on, its worker replaces the checkpoint that they begin from."""
    pbt = {"name": "pbt", "population": 4, "interval_steps": 2}
    sim = Simulation({"name": "random"}, pbt, Budget(trials=8), curve=flat, space=STEPPED)
    sim.lease(4)
    for number in [0, 0, 1, 1, 2, 2, 3, 3]:
        sim.train(number)
    assert sim.slots == []
    handed = [sim.lease(1)[0] for _ in range(4)]
    (child,) = [s for s in handed if s.copy_of is not None]
    order = [s.number for s in handed]
    assert order.index(None) < order.index(child.copy_of)
