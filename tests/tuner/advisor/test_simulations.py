"""The rules' exponents against optima found by running the optimizers on a noisy quadratic.

Curvatures 1/i, noise variance proportional to curvature, noise far above the signal; 40 replicas
share their noise between learning rates, so that optima can be compared. Each optimum is the vertex
of a parabola.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tuner.advisor import rules, scale

H = 1 / np.arange(1, 21)
LRS = 2.0 ** np.arange(-13, 3, 0.5)
Step = Callable[[np.ndarray, np.ndarray, dict[str, np.ndarray], int], np.ndarray]


def best_lr(step: Step, batch: int, steps: int, noise: float = 5.0) -> float:
    rng = np.random.default_rng(0)
    theta = np.ones((LRS.size, 40, H.size))
    state: dict[str, np.ndarray] = {}
    for t in range(steps):
        z = rng.standard_normal(theta.shape[1:])
        gradient = H * theta + noise * np.sqrt(H / batch) * z
        theta = theta - LRS[:, None, None] * step(gradient, theta, state, t)
    loss = 0.5 * (H * theta**2).sum(-1).mean(-1)
    best = int(np.argmin(loss))
    near = slice(max(0, best - 2), best + 3)
    bend, slope, _ = np.polyfit(np.log2(LRS[near]), np.log(loss[near]), 2)
    return float(2.0 ** (-slope / (2 * bend)))


def adam(beta1: float, beta2: float) -> Step:
    def step(g: np.ndarray, theta: np.ndarray, s: dict[str, np.ndarray], t: int) -> np.ndarray:
        s["m"] = beta1 * s.get("m", np.zeros_like(g)) + (1 - beta1) * g
        s["v"] = beta2 * s.get("v", np.zeros_like(g)) + (1 - beta2) * g * g
        return s["m"] / (1 - beta1 ** (t + 1)) / np.sqrt(s["v"] / (1 - beta2 ** (t + 1)))

    return step


def sign(g: np.ndarray, theta: np.ndarray, s: dict[str, np.ndarray], t: int) -> np.ndarray:
    return np.sign(g)


def adagrad(g: np.ndarray, theta: np.ndarray, s: dict[str, np.ndarray], t: int) -> np.ndarray:
    s["sum"] = s.get("sum", np.zeros_like(g)) + g * g
    return g / np.sqrt(s["sum"])


def exponent(small: Step, large: Step, kappa: int, steps: int) -> float:
    """Of the best lr between batch 1 and ``kappa`` at the same number of samples."""
    ratio = best_lr(large, kappa, steps // kappa) / best_lr(small, 1, steps)
    return math.log(ratio) / math.log(kappa)


def test_sign_steps_follow_the_square_root() -> None:
    assert exponent(sign, sign, 16, 2048) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("rule", ["sde", "half_life"])
def test_adam_with_scaled_betas_follows_the_square_root(rule: str) -> None:
    config = {"lr": 1e-3, "batch_size": 1, "beta1": 0.96, "beta2": 0.995, "eps": 0.0}
    moved = scale(config, 16, optimizer="adam", rule=rule).config
    large = adam(moved["beta1"], moved["beta2"])
    assert exponent(adam(0.96, 0.995), large, 16, 2048) == pytest.approx(0.5, abs=0.08)


def test_adam_with_its_betas_left_alone_rises_less() -> None:
    kept = adam(0.96, 0.995)
    assert exponent(kept, kept, 64, 2048) < 0.42


def test_adagrad_needs_no_change() -> None:
    assert exponent(adagrad, adagrad, 16, 2048) == pytest.approx(0, abs=0.08)


def test_at_fixed_steps_the_best_adam_rate_does_not_rise() -> None:
    kept = adam(0.9, 0.99)
    ratio = best_lr(kept, 16, 256) / best_lr(kept, 1, 256)
    assert -0.36 < math.log(ratio) / math.log(16) < 0.05


def test_sgd_follows_the_greedy_gain_near_its_noise_scale() -> None:
    """One step from a known point: the simulated best step is the formula's."""
    rng = np.random.default_rng(1)
    theta = np.ones(H.size)
    covariance = np.diag(4.0 * H)
    known = rules.greedy_step(np.diag(H), H * theta, covariance)
    for batch in (1, 4, 16, 64, 256):
        noise = rng.standard_normal((20_000, H.size)) * np.sqrt(4 * H / batch)
        gradient = H * theta + noise
        top = float((H * theta * gradient).sum(1).mean())
        bottom = float((H * gradient**2).sum(1).mean())
        assert known.lr(batch) == pytest.approx(top / bottom, rel=0.02)
