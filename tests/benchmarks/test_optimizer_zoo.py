from __future__ import annotations

import argparse
import csv
from pathlib import Path

import pytest
from scipy import stats

from benchmarks.optimizer_zoo import (
    Problem,
    Result,
    Zoo,
    interval,
    problems,
    sparkline,
    table,
    write_curves,
)


def test_an_interval_is_students() -> None:
    values = [1.0, 2.0, 4.0]
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values))
    assert interval(values) == f"{7 / 3:.4f} ± {(high - low) / 2:.4f}"
    assert interval([0.5]) == "0.5000 (one seed)"
    assert interval([]) == "–"
    assert interval([1.0, 1.0], sign=True) == "+1.0000 ± 0.0000"


def test_a_curve_in_text() -> None:
    result = Result("adamw", curves={1: [(10, 3.0, 0.0), (20, 2.0, 0.0), (30, 1.0, 0.0)]})
    assert sparkline(result) == "`█▅▁` 3.000 to 1.000"
    assert sparkline(Result("adamw")) == ""


def test_the_best_comes_first_and_what_found_nothing_last() -> None:
    found = {
        "adamw": Result("adamw", 1e-3, 8, losses={1: 1.0, 2: 1.2}),
        "lars": Result("lars"),
        "muon": Result("muon", 2e-2, 8, losses={1: 0.5, 2: 0.8}),
    }
    rows = [row.split(" | ") for row in table(found)[2:]]
    assert [row[0] for row in rows] == ["| muon", "| adamw", "| lars"]
    # Paired by seed: -0.5 and -0.4.
    assert rows[0][5] == f"-0.4500 ± {stats.t.ppf(0.975, 1) * 0.05:.4f}"


# Other tests of this process may have loaded JAX, which fears forks; the children never call it.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_an_optimizer_is_tuned_and_repeated(tmp_path: Path) -> None:
    """The service itself, on digits: two optimizers, three seeds, every curve complete."""
    problem = Problem({"name": "digits"}, {"batch_size": 64}, epochs=2, eval_every=1.0, share=1.0)
    zoo = Zoo(tmp_path, processes=1)
    try:
        found = zoo.tune(problem, ["adamw", "schedule_free_adamw"], trials=2, seconds=120)
        zoo.repeat(problem, found, seeds=3, seconds=120)
    finally:
        zoo.context.close()
    for result in found.values():
        assert result.trials == 2
        assert result.lr is not None
        assert set(result.losses) == {1, 2, 3}
        assert len(set(result.losses.values())) == 3
        assert all([samples for samples, _, _ in c] == [1079, 2158] for c in result.curves.values())
    write_curves(tmp_path / "curves.csv", "digits", found)
    with (tmp_path / "curves.csv").open() as opened:
        assert len(list(csv.DictReader(opened))) == 2 * 3 * 2


def test_a_clock_that_has_run_out_leaves_nothing_running(tmp_path: Path) -> None:
    problem = Problem({"name": "digits"}, {"batch_size": 64}, epochs=2, eval_every=1.0, share=1.0)
    zoo = Zoo(tmp_path, processes=1)
    try:
        found = zoo.tune(problem, ["adamw"], trials=2, seconds=0.0)
        zoo.repeat(problem, found, seeds=2, seconds=0.0)
    finally:
        zoo.context.close()
    assert found["adamw"].losses == {}
    assert table(found)[2].startswith("| adamw |")


@pytest.mark.skipif(not Path("../shared/data").is_dir(), reason="the two data sets are not there")
def test_all_three_problems_are_there(tmp_path: Path) -> None:
    arguments = argparse.Namespace(
        quick=True, data="../shared/data", pictures=1, text_bytes=1, tasks=None
    )
    assert list(problems(arguments, tmp_path)) == ["digits", "fashion-mnist", "tiny-shakespeare"]
