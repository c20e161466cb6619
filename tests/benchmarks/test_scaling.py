from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.scaling import GUESSING, HeldOut, Setting, complete, interval, spanned, table
from tuner.advisor import Fit, Observation, fit
from tuner.spaces import Space


def known(exponent: float = 0.5) -> Fit:
    """From noiseless parabolas about 1e-3 (B / 32)^exponent."""
    return fit(
        Observation(1e-3 * (size / 32) ** exponent * 2.0 ** (step / 2), size, 0.02 * step**2)
        for size in (16, 32, 64, 256)
        for step in range(-5, 6)
    )


def held() -> HeldOut:
    found = known()
    lr = found.predict(128).lr.value
    base: dict[str, Any] = {"optimizer": "adamw", "batch_size": 128}
    grid = [{**base, "lr": lr * 2.0**step} for step in (-2, -1, 0, 1, 2)]
    made = HeldOut(128, found, {"fit": {**base, "lr": lr}, "keep": {**base, "lr": 1e-3}}, grid)
    made.grid_losses = [[1.0 + 0.1 * step**2, 1.2 + 0.1 * step**2] for step in (-2, -1, 0, 1, 2)]
    made.losses = {"fit": [1.0, 1.2], "keep": [1.1, 1.4]}
    return made


def test_regret_is_paired_by_seed_and_above_the_best_rate() -> None:
    one = held()
    assert one.best == [1.0, 1.2]
    assert one.regret("fit") == pytest.approx([0.0, 0.0])
    assert one.regret("keep") == pytest.approx([0.1, 0.2])
    assert one.truth() == pytest.approx(2e-3, rel=0.05)


def test_an_end_of_the_grid_is_no_best_rate() -> None:
    one = held()
    one.grid_losses = [[float(step)] * 2 for step in range(5)]
    assert one.truth() is None
    assert "| at an end |" in "\n".join(table([one]))


def test_the_table_says_what_was_foretold_found_and_lost() -> None:
    lines = list(table([held()]))
    assert lines[0] == "| batch size left out | 128 | mean |"
    assert lines[2].startswith("| foretold (95 %) | 0.002 (")
    assert lines[3] == "| found | 0.002 | 1 of 1 inside |"
    assert lines[4] == "| fit | 0.000 ± 0.000 | 0.000 ± 0.000 |"
    assert lines[5].startswith("| keep | 0.150 ± ")
    assert interval([0.25]) == "0.250"


def test_a_fit_that_tells_nothing_is_shown_as_such() -> None:
    one = held()
    one.fit = fit([])
    del one.configs["fit"]
    lines = list(table([one]))
    assert lines[2] == "| foretold (95 %) | not told |  |"


def test_a_space_holds_every_configuration() -> None:
    configs = [
        {"optimizer": "adamw", "lr": 1e-3, "batch_size": 16, "beta1": 0.9},
        {"optimizer": "adamw", "lr": 1e-2, "batch_size": 512, "beta1": 0.0},
    ]
    space = Space.parse(spanned(configs))
    for config in configs:
        params = space.check(config)
        assert space.fill(params) == config


def test_a_rule_that_moves_more_names_gives_all_the_same_names() -> None:
    one = held()
    one.configs["advised"] = {**one.configs["fit"], "beta1": 0.5}
    complete([one])
    assert {frozenset(c) for c in (*one.configs.values(), *one.grid)} == {
        frozenset({"optimizer", "batch_size", "lr", "beta1"})
    }
    assert one.grid[0]["beta1"] == 0.9


def test_a_grid_is_moved_by_octaves() -> None:
    plain, moved = Setting("a").study("x", 3), Setting("b", shift=1.0).study("y", 3)
    first, second = (raw["space"]["lr"]["choices"] for raw in (plain, moved))
    assert second == pytest.approx([2 * lr for lr in first], rel=1e-3)
    assert plain["seed"] == 3


# As in test_optimizer_zoo: the children of these forks never call JAX.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_both_studies_run_on_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small, but whole: the grid, the fits, the follow-up with another seed, the table."""
    monkeypatch.setattr(scaling, "GRID", (-1, 0, 1))
    lr = {"type": "categorical", "choices": [1e-3 * 2.0**i for i in range(7)]}
    sizes = {"type": "categorical", "choices": [32, 64, 128, 512]}
    short = {"budget": {"epochs": 1}, "eval_every": 1}
    setting = Setting("small", short, {"lr": lr, "batch_size": sizes})
    arguments = argparse.Namespace(processes=2, fit_seeds=1, seeds=1)
    found, notes = scaling.measured(tmp_path, "small", setting, arguments)
    assert [one.batch for one in found] == [32, 64, 128, 512]
    for one in found:
        assert all(len(losses) == 1 for losses in (*one.losses.values(), *one.grid_losses))
        assert one.losses.keys() == one.configs.keys()
        assert statistics.fmean(one.best) <= GUESSING
    assert "Range test at batch size 128" in notes[1]
    assert len(list(table(found))) >= 5
