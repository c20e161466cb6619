"""Each pruner's rule on curves written by hand, and every pruner's contract."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner import pruners
from tuner.errors import InvalidInput
from tuner.pruners import Board, Pruner, Track
from tuner.pruners.asha import first_rung, rungs
from tuner.pruners.pbt import PbtPruner
from tuner.spaces import Space

SPACE = Space.parse({"lr": {"type": "float", "low": 0, "high": 1}})
NEEDED: dict[str, dict[str, Any]] = {"threshold": {"upper": 10.0}}


def make(name: str, max_step: int = 9, sign: float = 1.0, **given: Any) -> Pruner:
    raw = {"name": name, **NEEDED.get(name, {}), **given}
    return pruners.create(raw, max_step=max_step, space=SPACE, seed=0, sign=sign)


def board(*curves: list[float], paused: bool = False) -> Board:
    """One track a curve, steps from 1; the last value is inf where the trial diverged."""
    b = Board()
    for number, values in enumerate(curves):
        finite = [v for v in values if math.isfinite(v)]
        curve = {s + 1: v for s, v in enumerate(finite)}
        track = Track(number, curve, len(finite), until=len(values), paused=paused, busy=not paused)
        track.diverged = len(finite) < len(values)
        b.add(track)
    return b


@pytest.mark.parametrize("name", pruners.names())
def test_decision_steps_rise_to_the_end(name: str) -> None:
    for max_step in (1, 2, 7, 50):
        pruner = make(name, max_step)
        step = 0
        for _ in range(max_step):
            stop = pruner.next_stop(step, 0)
            assert step < stop <= max_step
            step = stop
            if step == max_step:
                break
        assert step == max_step


@pytest.mark.parametrize("name", pruners.names())
@given(seed=st.integers(0, 10_000), lost=st.integers(0, 5))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_the_best_trial_goes_on_or_waits_but_is_never_stopped(
    name: str, seed: int, lost: int
) -> None:
    """Beside diverged trials and any noise."""
    rng = np.random.default_rng(seed)
    pruner = make(name)
    stop = pruner.next_stop(0, 0)
    curves = [list(rng.random(stop) + 1 - np.arange(stop) / 100) for _ in range(12)]
    curves += [[math.inf] * stop for _ in range(lost)]
    best = list(0.5 - np.arange(stop) / 100)
    b = board(best, *curves)
    for number in range(1, 13):
        assert pruner.decide(b, b.tracks[number], False).action in (
            "continue",
            "pause",
            "stop",
            "finish",
        )
    goes_on = "pause" if name == "pbt" else "continue"  # it waits for the population
    assert pruner.decide(b, b.tracks[0], True).action == goes_on


def test_board_ranks_and_replaces() -> None:
    b = board([3.0, 2.0], [1.0], [2.0, math.inf])
    assert b.ranking(1) == [(1.0, 1), (2.0, 2), (3.0, 0)]
    assert b.ranking(2) == [(2.0, 0), (math.inf, 2)]
    b.report(0, 1, 0.5)
    assert b.ranking(1)[0] == (0.5, 0)
    assert b.rank(2, 1) == 2
    b.add(Track(1, {1: 9.0}, 1))
    assert b.ranking(1) == [(0.5, 0), (2.0, 2), (9.0, 1)]
    assert len(b.ranking(2)) == 2


@given(seed=st.integers(0, 100_000), by_best=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_rankings_are_the_same_whenever_they_are_first_asked_for(seed: int, by_best: bool) -> None:
    rng = np.random.default_rng(seed)
    asked, fresh = Board(by_best=by_best), Board(by_best=by_best)
    for number in range(6):
        for b in (asked, fresh):
            b.add(Track(number, until=4, busy=True, lane=number % 2))
    for _ in range(40):
        number, step, value = int(rng.integers(6)), int(rng.integers(1, 5)), float(rng.integers(4))
        deed = rng.choice(["report", "report", "report", "lose", "add"])
        for b in (asked, fresh):
            if deed == "report":
                b.report(number, step, value)
            elif deed == "lose":
                b.lose(number)
            else:
                b.add(Track(number, {step: value}, step, until=4, lane=int(value) % 2))
        asked.ranking(int(rng.integers(1, 5)), int(rng.integers(2)))
    for step in range(1, 5):
        for lane in range(2):
            entries = {}
            for number, track in asked.tracks.items():
                if track.lane == lane and step in track.curve:
                    earlier = [v for s, v in track.curve.items() if s <= step]
                    entries[number] = min(earlier) if by_best else track.curve[step]
                elif track.lane == lane and track.diverged and step == 4:
                    entries[number] = math.inf
            ranked = sorted((value, number) for number, value in entries.items())
            assert asked.ranking(step, lane) == fresh.ranking(step, lane) == ranked
            assert [asked.rank(number, step) for _, number in ranked] == list(range(len(ranked)))


def test_median() -> None:
    b = board([1.0], [2.0], [3.0], [4.0], [5.0], [3.5])
    median = make("median", n_startup_trials=5)
    assert median.decide(b, b.tracks[0], False).action == "continue"
    assert median.decide(b, b.tracks[5], False).action == "stop"
    assert make("median", n_startup_trials=6).decide(b, b.tracks[5], False).action == "continue"
    # by its best so far: one noisy step does not kill a good trial
    b = board([3.0, 2.9], [3.0, 2.9], [3.0, 2.9], [0.1, 9.0])
    assert make("median", n_startup_trials=1).decide(b, b.tracks[3], False).action == "continue"


def test_percentile_keeps_its_share() -> None:
    b = board(*[[float(i)] for i in range(100)])
    for kept in (10.0, 25.0, 80.0):
        pruner = make("percentile", percentile=kept)
        stays = [n for n in range(100) if pruner.decide(b, b.tracks[n], False).action == "continue"]
        assert stays == list(range(len(stays)))
        assert abs(len(stays) - kept) <= 1


@pytest.mark.parametrize(
    ("sign", "values", "reason"),
    [
        (1.0, [0.12, 0.123456789], "best 0.1235 is above the 50 % mark 0.12"),
        (1.0, [0.1234567, 0.1234568], "best 0.1234568 is above the 50 % mark 0.1234567"),
        (1.0, [12345.6, 123456.7], "best 123457 is above the 50 % mark 12345.6"),
        (1.0, [1e-9, 2.5e12], "best 2.5e+12 is above the 50 % mark 1e-09"),
        (-1.0, [-0.95, -0.9], "best 0.9 is below the 50 % mark 0.95"),  # accuracies
    ],
)
def test_the_reason_is_told_in_the_metrics_own_sense_with_as_many_digits_on_both_sides(
    sign: float, values: list[float], reason: str
) -> None:
    b = board(*[[value] for value in values])
    median = make("median", sign=sign, n_startup_trials=1)
    assert median.decide(b, b.tracks[1], False).reason == reason


def test_warmup_and_interval() -> None:
    pruner = make("median", max_step=20, n_warmup_steps=4, interval_steps=5)
    assert [pruner.next_stop(s, 0) for s in (0, 3, 4, 8, 9, 14, 19)] == [4, 4, 9, 9, 14, 19, 20]


def test_threshold_in_the_metrics_own_sense() -> None:
    b = board([1.0, 11.0], [5.0])
    stopped = make("threshold", upper=10).decide(b, b.tracks[0], False)
    assert (stopped.action, stopped.reason) == ("stop", "11 is above 10")
    assert make("threshold", upper=10).decide(b, b.tracks[1], False).action == "continue"
    b = board([-0.05], [-0.8])  # accuracies 0.05 and 0.8, as the board holds them
    pruner = make("threshold", sign=-1.0, upper=1.0, lower=0.1)
    assert pruner.decide(b, b.tracks[0], False).action == "stop"
    assert pruner.decide(b, b.tracks[1], False).action == "continue"
    with pytest.raises(InvalidInput) as caught:
        pruners.create({"name": "threshold"}, max_step=3, space=SPACE, seed=0)
    assert caught.value.field == "pruner.upper"


def test_patience() -> None:
    pruner = make("patience", max_step=20, patience=3)
    b = board([5, 4, 3, 3.5, 3.2, 3.1], [5, 4, 3, 3.5, 2.9])
    assert pruner.decide(b, b.tracks[0], False).action == "finish"
    assert pruner.decide(b, b.tracks[1], False).action == "continue"
    assert pruner.next_stop(0, 0) == 4
    picky = make("patience", max_step=20, patience=2, min_delta=0.2)
    assert picky.decide(b, b.tracks[1], False).action == "finish"


def test_wilcoxon() -> None:
    rng = np.random.default_rng(0)
    best = rng.normal(1.0, 0.1, 8)
    worse = rng.normal(1.4, 0.1, 8)
    equal = best + rng.normal(0.0, 0.1, 8)
    b = board(list(best), list(worse), list(equal - equal.mean() + best.mean() + 1e-3))
    b.report(0, 8, 0.5)
    pruner = make("wilcoxon")
    assert pruner.decide(b, b.tracks[0], False).action == "continue"
    assert pruner.decide(b, b.tracks[1], False).action == "stop"
    assert pruner.decide(b, b.tracks[2], False).action == "continue"


def test_rungs() -> None:
    assert rungs(1, 3, 20) == (1, 3, 9, 20)
    assert rungs(2, 3, 20) == (2, 6, 20)  # 18 of 20 would decide nothing
    assert rungs(1, 2, 50) == (1, 2, 4, 8, 16, 32, 50)
    assert rungs(1, 3, 1) == (1,)
    assert rungs(5, 3, 4) == (4,)
    searched = {"warmup_fraction": {"type": "float", "low": 0, "high": 0.2}}
    assert first_rung(SPACE, 40) == 2
    assert first_rung(Space.parse(searched), 40) == 4
    assert first_rung(Space.parse({"lr": 0.1, "schedule": "cosine"}), 40) == 2


def test_asha_promotes_the_best_third_of_each_rung() -> None:
    asha = make("asha")  # rungs 1, 3, 9
    b = board(*[[float(i)] for i in range(9)], paused=True)
    assert [t.number for t in asha.promotable(b, False)] == [0, 1, 2]
    assert [t.number for t in asha.promotable(b, True)] == [0, 1, 2]
    b = board(*[[float(i)] for i in range(8)], paused=True)
    assert [t.number for t in asha.promotable(b, False)] == [0, 1]
    assert [t.number for t in asha.promotable(b, True)] == [0, 1, 2]  # the last call rounds up
    # those from a higher rung come first; whoever has moved on is not promoted again
    b = board([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0], [4.0], paused=True)
    assert [(t.number, t.step) for t in asha.promotable(b, False)] == [(0, 3)]


def test_asha_counts_a_diverged_trial_at_the_rung_it_missed() -> None:
    asha = make("asha")
    b = board([1.0], [2.0], [math.inf], paused=True)
    assert [t.number for t in asha.promotable(b, False)] == [0]


def test_the_default_lets_newcomers_pass_that_are_better_than_all_before() -> None:
    auto = make("auto", max_step=4)  # rungs 1, 2, 4
    b = board(*[[float(i)] for i in range(4, 12)], paused=True)
    assert [t.number for t in auto.promotable(b, False)] == [0, 1, 2, 3]
    for track in b.tracks.values():  # half of them have left the rung, and more
        track.paused, track.busy, track.until = False, True, 2
    b.add(Track(8, {}, until=1, busy=True))
    b.report(8, 1, 0.0)
    assert auto.decide(b, b.tracks[8], False).action == "continue"


def test_hyperband_brackets() -> None:
    hyperband = make("hyperband", max_step=27)
    lanes = [hyperband.lane(hyperband.enter(i)) for i in range(4000)]
    share = np.bincount(lanes) / 4000
    # Hyperband's sizes with eta 3 and four brackets: 27, 12, 6, 4
    np.testing.assert_allclose(share, np.array([27, 12, 6, 4]) / 49, atol=0.03)
    assert [hyperband.next_stop(0, lane) for lane in range(4)] == [1, 3, 9, 27]
    assert hyperband.lane({}) == 0
    assert hyperband.lane({"bracket": "x"}) == 0
    # a trial is compared within its bracket only
    b = Board()
    for number, lane in enumerate([0, 0, 0, 1]):
        stop = hyperband.next_stop(0, lane)
        curve = dict.fromkeys(range(1, stop + 1), 5.0 - number)
        b.add(Track(number, curve, stop, stop, paused=True, lane=lane))
    assert [t.number for t in hyperband.promotable(b, False)] == [2]


def population(curves: list[list[float]]) -> tuple[Pruner, Board]:
    """A population of four, exchanging every two steps."""
    pbt = make("pbt", max_step=8, population=4, interval_steps=2, quantile=0.25)
    return pbt, board(*curves, paused=True)


def test_pbt_replaces_the_worst_by_a_changed_copy_of_the_best() -> None:
    pbt, b = population([[1.0, 0.9], [1.0, 0.2], [1.0, 0.5], [1.0, 0.6]])
    params = {n: {"lr": 0.5} for n in range(4)}
    (spawn,) = pbt.spawn(b, params)
    assert (spawn.copy_of, spawn.start) == (1, 2)
    assert spawn.note == {"start": 2, "parent": 1, "replaces": 0}
    assert [t.number for t in pbt.promotable(b, False)] == [1, 2, 3]
    assert [t.number for t in pbt.promotable(b, True)] == [1, 2, 3, 0]  # no copy can be made
    b.add(Track(4, {}, 2, until=4, busy=True, note=spawn.note))
    assert list(pbt.spawn(b, params)) == []
    assert pbt.room(b, 0) == 0


def test_pbt_waits_for_everyone_but_not_for_the_dead() -> None:
    pbt, b = population([[1.0, 0.9], [1.0, 0.2], [1.0, 0.5], [1.0]])
    assert list(pbt.promotable(b, False)) == []
    b.tracks[3].ended = True  # out of memory, say
    assert [t.number for t in pbt.promotable(b, False)] == [1, 2]
    pbt, b = population([[1.0, 0.9], [1.0, 0.2], [1.0, 0.5], [1.0, math.inf]])
    b.tracks[3].ended, b.tracks[3].paused = True, False
    (spawn,) = pbt.spawn(b, {n: {"lr": 0.5} for n in range(4)})
    assert (spawn.note["replaces"], spawn.copy_of) == (3, 1)
    assert pbt.room(board(*[[1.0]] * 3), 0) == 1
    assert pbt.room(board(*[[1.0]] * 2), 1) == 1


def test_pbt_changes_settings_but_nothing_that_the_copied_state_depends_on() -> None:
    space = Space.parse(
        {
            "optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
            "lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
            "batch_size": {"type": "int", "low": 1, "high": 64},
            "momentum": {"type": "float", "low": 0, "high": 1, "when": {"optimizer": "sgd"}},
            "model.width": {"type": "int", "low": 8, "high": 512},
            "schedule": {"type": "categorical", "choices": ["cosine", "constant"]},
        }
    )
    raw = {"name": "pbt", "resample": 0.0}
    pbt = pruners.create(raw, max_step=10, space=space, seed=0)
    assert isinstance(pbt, PbtPruner)
    parent = {
        "optimizer": "sgd",
        "lr": 0.01,
        "batch_size": 2,
        "momentum": 0.5,
        "model.width": 64,
        "schedule": "cosine",
    }
    for seed in range(40):
        child = pbt.explore(parent, np.random.default_rng(seed))
        assert space.check(child) == child
        for name in ("optimizer", "model.width", "schedule"):
            assert child[name] == parent[name]
        assert child["lr"] / 0.01 == pytest.approx(0.8) or child["lr"] / 0.01 == pytest.approx(1.2)
        assert child["batch_size"] in (1, 3)
        assert child["momentum"] in (pytest.approx(0.4), pytest.approx(0.6))


def test_every_setting_can_be_perturbed_also_in_steps_and_at_zero() -> None:
    space = Space.parse(
        {
            "dropout": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.3},
            "clip": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1},
            "decay": {"type": "float", "low": 0.0, "high": 1.0},
            "layers": {"type": "int", "low": 0, "high": 8, "step": 2},
        }
    )
    pbt = pruners.create({"name": "pbt", "resample": 0.0}, max_step=10, space=space, seed=0)
    assert isinstance(pbt, PbtPruner)
    parent = {"dropout": 0.3, "clip": 0.0, "decay": 0.0, "layers": 0}
    children = [pbt.explore(parent, np.random.default_rng(seed)) for seed in range(40)]
    assert {child["dropout"] for child in children} == {0.0, 0.6}
    assert {child["clip"] for child in children} == {0.0, 0.1}
    assert {child["layers"] for child in children} == {0, 2}
    assert len({child["decay"] for child in children}) == 40
    assert all(space.check(child) == child for child in children)
