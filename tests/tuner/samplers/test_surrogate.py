"""The model of all curves: its gradient, its posterior, its acquisition; and the draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import check_grad
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from tuner.samplers import COMPLETE, DIVERGED, PARTIAL, History, create
from tuner.samplers.priors import Encoder, at, many, snap, sobol
from tuner.samplers.surrogate import (
    JITTER,
    Kernel,
    Posterior,
    Rows,
    default_theta,
    fit,
    log_expected_improvement,
    negative_log_posterior,
    normal_scores,
)
from tuner.spaces import Prior, Space

COLUMNS = np.array([0, 1, 2, 2, 2, 3])


def some_rows(n: int, seed: int = 0, trials: int = 8) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.random((trials, 6))
    trial = np.sort(rng.integers(0, trials, n))
    return Rows(x[trial], rng.random(n), trial, rng.normal(size=n))


@given(st.integers(0, 1000))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_gradient(seed: int) -> None:
    rows, center = some_rows(25, seed), default_theta(COLUMNS)
    theta = center + 0.5 * np.random.default_rng(seed).normal(size=len(center))
    error = check_grad(
        lambda t: negative_log_posterior(t, rows, COLUMNS, center)[0],
        lambda t: negative_log_posterior(t, rows, COLUMNS, center)[1],
        theta,
        epsilon=1e-6,
    )
    scale = np.linalg.norm(negative_log_posterior(theta, rows, COLUMNS, center)[1])
    assert error < 1e-4 * max(scale, 1.0)


def test_posterior_is_scikit_learns_where_the_kernels_agree() -> None:
    """One row a trial, all at the same step: only the Matern part and a constant differ."""
    theta = default_theta(COLUMNS)
    theta[[1, 2, 3, 4]] = -40.0  # b, c, e, d: off
    kernel = Kernel(theta, COLUMNS)
    rng = np.random.default_rng(1)
    n = 20
    rows = Rows(rng.random((n, 6)), np.ones(n), np.arange(n), rng.normal(size=n))
    x = rng.random((7, 6))
    mean, sigma = Posterior(kernel, rows).predict(x, np.ones(7), np.arange(100, 107))
    theirs = GaussianProcessRegressor(
        kernel.a * Matern(kernel.length, nu=2.5), alpha=kernel.noise + JITTER, optimizer=None
    ).fit(rows.x, rows.z)
    want_mean, want_sigma = theirs.predict(x, return_std=True)
    np.testing.assert_allclose(mean, want_mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(sigma, want_sigma, rtol=1e-5)


def test_believing_changes_no_mean_and_narrows() -> None:
    posterior = Posterior(Kernel.default(COLUMNS), some_rows(30))
    rng = np.random.default_rng(2)
    new, asked = rng.random((4, 6)), rng.random((9, 6))
    after = posterior.believing(new, np.ones(4), np.arange(50, 54))
    once = posterior.predict(asked, np.ones(9), np.arange(60, 69))
    then = after.predict(asked, np.ones(9), np.arange(60, 69))
    np.testing.assert_allclose(then[0], once[0], atol=1e-8)
    assert (then[1] <= once[1] + 1e-12).all()
    # one after the other is the same as together
    chain = posterior
    for i in range(4):
        chain = chain.believing(new[i : i + 1], np.ones(1), np.array([50 + i]))
    np.testing.assert_allclose(
        chain.predict(asked, np.ones(9), np.arange(60, 69))[1], then[1], rtol=1e-6
    )


@pytest.mark.parametrize("u", [3.0, 0.5, 0.0, -0.99, -1.01, -3.0, -8.0])
def test_log_expected_improvement_is_its_integral(u: float) -> None:
    got = log_expected_improvement(np.array([-u]), np.array([1.0]), 0.0)[0]
    integral = quad(lambda f: -f * norm.pdf(f, -u, 1.0), -np.inf, 0.0, epsabs=0)[0]
    assert got == pytest.approx(math.log(integral), rel=1e-6, abs=1e-9)


def test_log_expected_improvement_never_underflows() -> None:
    mean = np.array([10.0, 50.0, 500.0, 2e3, 1e6])
    got = log_expected_improvement(mean, np.ones(5), 0.0)
    assert np.isfinite(got).all()
    assert (np.diff(got) < 0).all()


def test_fit_finds_which_parameter_matters() -> None:
    rng = np.random.default_rng(0)
    n = 60
    x = rng.random((n, 3))
    z = normal_scores(np.sin(5 * x[:, 1]))
    columns = np.arange(3)
    kernel = fit(Rows(x, np.ones(n), np.arange(n), z), columns, seed=0)
    assert kernel.length[1] < 0.5 * min(kernel.length[0], kernel.length[2])
    again = fit(Rows(x, np.ones(n), np.arange(n), z), columns, seed=0)
    np.testing.assert_array_equal(kernel.theta, again.theta)


@given(st.lists(st.floats(-1e300, 1e300) | st.just(math.inf), min_size=1, max_size=200))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_scores_are_finite_and_ordered(values: list[float]) -> None:
    z = normal_scores(np.array(values))
    assert np.isfinite(z).all()
    order = np.argsort(values)
    assert (np.diff(z[order]) >= 0).all()


# --- draws and coordinates

SPACE = Space.parse(
    {
        "lr": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
        "beta2": {"type": "float", "low": 0.9, "high": 0.9999},
        "drop": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1},
        "width": {"type": "int", "low": 1, "high": 300, "log": True},
        "deep": {"type": "int", "low": 1, "high": 9, "step": 2},
        "act": {"type": "categorical", "choices": ["a", "b", "c"]},
        "optimizer": "adamw",
    }
).with_priors(
    {
        "adamw": {
            "lr": Prior(1e-3, 0.5, "log"),
            "beta2": Prior(0.997, 0.5, "complement"),
            "width": Prior(32, 0.3, "log"),
            "deep": Prior(3, 0.2, "linear"),
            "drop": Prior(0.1, 0.2, "linear"),
        }
    }
)
CONDITIONAL = Space.parse(
    {
        "optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
        "lr": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
        "momentum": {"type": "float", "low": 0, "high": 1, "when": {"optimizer": "sgd"}},
    }
).with_priors({"adamw": {"lr": Prior(1e-3, 0.3, "log")}, "sgd": {"lr": Prior(0.1, 0.3, "log")}})
NESTED = Space.parse(
    {
        "layers": {"type": "int", "low": 1, "high": 8, "log": True},
        "width": {"type": "int", "low": 8, "high": 64, "step": 8, "when": {"layers": [2, 3, 5]}},
        "gated": {
            "type": "categorical",
            "choices": [True, False, "no"],
            "when": {"width": [8, 16]},
        },
        "gate": {"type": "float", "low": 0, "high": 1, "when": {"gated": True, "layers": [2, 5]}},
        "one": {"type": "float", "low": 0, "high": 1, "when": {"gated": ["no", False]}},
        "kind": "plain",
        "plain": {"type": "float", "low": 0, "high": 1, "when": {"kind": "plain"}},
    }
)
SPACES = [SPACE, CONDITIONAL, NESTED]


def test_the_middle_is_the_centre_of_every_prior() -> None:
    params = at(SPACE, np.full(6, 0.5), informed=True)
    assert params["lr"] == pytest.approx(1e-3, rel=0.05)
    assert params["beta2"] == pytest.approx(0.997, abs=3e-4)
    assert (params["width"], params["deep"]) == (32, 3)
    assert params["drop"] == pytest.approx(0.1)


@pytest.mark.parametrize("space", SPACES)
def test_many_draws_are_the_single_ones(space: Space) -> None:
    rng = np.random.default_rng(0)
    d = len(space.searched)
    u, informed = rng.random((60, d)), rng.random(60) < 0.5
    units = many(space, u, informed)
    for row, q, i in zip(units, u, informed, strict=True):
        want = at(space, q, informed=bool(i))
        assert space.contains(want)
        got = space.from_unit(np.nan_to_num(row, nan=0.5))
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert got[name] == (
                pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
            )


def test_the_prior_follows_the_optimizer_drawn() -> None:
    lrs = {"adamw": [], "sgd": []}  # type: dict[str, list[float]]
    rng = np.random.default_rng(0)
    for _ in range(200):
        params = at(CONDITIONAL, rng.random(3), informed=True)
        lrs[params["optimizer"]].append(math.log10(params["lr"]))
    assert np.median(lrs["adamw"]) == pytest.approx(-3, abs=0.15)
    assert np.median(lrs["sgd"]) == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize("space", SPACES)
def test_snapping_lands_on_legal_points_and_stays(space: Space) -> None:
    u = np.random.default_rng(0).random((200, len(space.searched)))
    once = snap(space, u)
    np.testing.assert_allclose(snap(space, once), once, atol=1e-12)
    for row, start in zip(once, u, strict=True):
        params = space.from_unit(np.nan_to_num(row, nan=0.5))
        np.testing.assert_allclose(space.to_unit(params), row, atol=1e-9)
        np.testing.assert_allclose(space.to_unit(space.from_unit(start)), row, atol=1e-9)


def test_encoding_sees_decay_rates_by_their_distance_from_one() -> None:
    encode = Encoder(SPACE)
    assert encode.columns.tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    base = {"lr": 1e-3, "drop": 0.1, "width": 8, "deep": 3, "act": "b"}
    x = encode(np.array([SPACE.to_unit({**base, "beta2": b}) for b in (0.9, 0.99, 0.999)]))
    assert x[1, 1] - x[0, 1] == pytest.approx(x[2, 1] - x[1, 1])
    y = encode(np.array([SPACE.to_unit({**base, "beta2": 0.99, "act": a}) for a in "abc"]))
    distance = ((y[:, None] - y[None]) ** 2).sum(-1)
    np.testing.assert_allclose(distance, 1 - np.eye(3), atol=1e-12)


def test_sobol_covers_evenly_and_any_point_can_be_asked_for() -> None:
    points = np.array([sobol(3, i, seed=1) for i in range(64)])
    counts = np.histogram(points[:, 1], 8, (0, 1))[0]
    assert (counts == 8).all()
    np.testing.assert_array_equal(sobol(3, 17, seed=1), points[17])


# --- the sampler's rows


def test_rows_of_curves_are_the_best_so_far_at_doubling_steps() -> None:
    space = Space.parse({"x": {"type": "float", "low": 0, "high": 1}})
    sampler = create({"name": "auto"}, space=space, objectives=1, seed=0, max_step=16)
    history = History(space)
    curves = [{s: 1.0 / s for s in range(1, 17)}, {1: 2.0, 2: 3.0, 3: 1.5}, {1: 4.0}, {}]
    states = [COMPLETE, PARTIAL, DIVERGED, DIVERGED]
    for number, (curve, state) in enumerate(zip(curves, states, strict=True)):
        history.add(number, {"x": 0.1 * number}, {})
        history.curves[number] = curve
        last = curve.get(len(curve), math.nan)
        values = (1 / 16,) if state == COMPLETE else None
        history.put(number, state, step=len(curve), last=last, values=values)
    trial, s, value = sampler.rows(history)  # type: ignore[attr-defined]  # auto has it
    step = np.expm1(s * math.log(17)).round().astype(int)
    got = [(t, r, v) for t, r, v in zip(trial.tolist(), step.tolist(), value.tolist(), strict=True)]
    assert got == [
        *((0, r, 1.0 / r) for r in (1, 2, 4, 8, 16)),
        (1, 1, 2.0),
        (1, 2, 2.0),
        (1, 3, 1.5),
        (2, 1, 4.0),
        (2, 2, math.inf),
        (3, 1, math.inf),
    ]
