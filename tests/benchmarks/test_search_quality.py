from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Any:
    """Its files import one another as scripts of one folder do."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def table(folder: Path) -> Any:
    """Eighty runs of ten epochs whose loss falls at a learning rate of its own; some diverge."""
    from search_courses import Table  # noqa: PLC0415  (a script's module)

    rng = np.random.default_rng(0)
    lr = np.exp(rng.uniform(math.log(1e-6), math.log(1.0), 80))
    beta1 = rng.uniform(0.5, 0.999, 80)
    off = (np.log10(lr) + 3.0) ** 2 / 9 + (beta1 - 0.9) ** 2
    curves = math.log(2) * (off[:, None] + 1 / np.arange(1, 12)[None, :]).clip(None, 1.2)
    curves[lr > 0.5, 3:] = np.nan
    path = folder / "made.npz"
    np.savez(path, hp_names=["learning_rate", "beta1"], hp=np.c_[lr, beta1], valid=curves)
    made = Table.load(path)
    made.marks = (20, 60, 120)
    return made


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", ["auto + auto, priors", "tpe + asha", "Optuna TPE + median"])
def test_every_contender_spends_the_same_epochs(tmp_path: Path, name: str, workers: int) -> None:
    from search_contenders import CONTENDERS  # noqa: PLC0415

    problem = table(tmp_path)
    contender = CONTENDERS[name]
    meter = contender.run(problem, 0, workers, *contender.how)
    assert 120 <= len(meter.seen) < 120 + workers
    assert meter.seen == sorted(meter.seen, reverse=True)
    scores = meter.scores()
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert all(a >= b for a, b in zip(scores, problem.floor(workers), strict=True))
    assert (~problem.free).sum() >= 12


def test_a_row_is_tried_once_and_told_as_it_is(tmp_path: Path) -> None:
    problem = table(tmp_path)
    params = problem.space(False).from_unit(np.array([0.5, 0.5]))
    first, second = problem.start(params), problem.start(params)
    assert first.params != second.params
    row = int(np.flatnonzero(np.isclose(problem.points[:, 0], first.params["learning_rate"]))[0])
    assert [(shown, shown) for shown in problem.curves[row].tolist()] == list(first.losses)
    assert not problem.free[row]


def test_noise_is_shown_and_not_judged(tmp_path: Path) -> None:
    from search_contenders import CONTENDERS  # noqa: PLC0415

    problem = table(tmp_path)
    problem.noise = 0.1
    rows = problem.curves.copy()
    off = []
    for _ in range(40):
        course = problem.start(problem.space(False).from_unit(np.array([0.4, 0.5])))
        losses = list(course.losses)
        assert [loss.true for loss in losses] in rows.tolist()
        off += [loss.shown - loss.true for loss in losses]
    scale = 0.1 * (problem.chance - problem.best)
    assert np.std(off) == pytest.approx(scale, rel=0.15)
    problem = table(tmp_path)
    problem.noise = 10.0
    contender = CONTENDERS["random + asha"]
    meter = contender.run(problem, 0, 1, *contender.how)
    assert min(meter.seen) >= np.nanmin(problem.curves)


def test_priors_can_mislead(tmp_path: Path) -> None:
    problem = table(tmp_path)
    right, wrong = problem.space(True), problem.space(True, 0.01)
    assert right.prior("learning_rate", {}).center == pytest.approx(1e-3)
    assert wrong.prior("learning_rate", {}).center == pytest.approx(1e-5)
    assert problem.space(False).prior("learning_rate", {}) is None


def test_a_study_is_trained_and_stands_still_in_between() -> None:
    from search_trained import REAL, Trained  # noqa: PLC0415

    for name in REAL:
        problem = Trained(name, 0)
        space = problem.space(True)
        params = space.from_unit(np.full(len(space.searched), 0.6))
        once, again = problem.start(params), problem.start(params)
        losses = [next(once.losses).true for _ in range(2)]
        assert [next(again.losses).shown for _ in range(2)] == losses
        assert problem.score(losses[-1]) == losses[-1]
        assert math.isfinite(losses[0])
    assert problem.space(True, 0.01).prior("lr", {}).center == pytest.approx(1e-5)
    assert problem.space(False).prior("lr", {}) is None


def test_optuna_is_asked_condition_after_condition() -> None:
    import optuna  # noqa: PLC0415
    from search_contenders import suggested  # noqa: PLC0415
    from search_trained import Trained  # noqa: PLC0415

    space = Trained("digits, sgd or adamw, schedules", 0).space(False)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        params = suggested(study.ask(), space)
        assert space.contains(params)
        assert ("momentum" in params) == (params["optimizer"] == "sgd")


def test_an_interval_holds_its_mean() -> None:
    from search_quality import interval  # noqa: PLC0415

    (text,) = interval(np.array([[0.1], [0.2], [0.3]]))
    mean, low, high = (float(x.strip("[],")) for x in text.split())
    assert (mean, low <= mean <= high) == (0.2, True)
