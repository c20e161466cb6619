"""The formulas against published numbers, limits, symmetries and simulation."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.advisor import rules
from tuner.errors import InvalidInput, Refusal

EXACT = 1e-6
kappas = st.floats(1e-3, 1e3)
lrs = st.floats(1e-7, 10.0)


def test_the_docstring_examples_run() -> None:
    assert doctest.testmod(rules).failed == 0


def test_published_cases() -> None:
    assert rules.sqrt(5e-4, 8) == pytest.approx(0.00141421356, rel=EXACT)
    assert rules.half_life_beta(0.999, 8) == pytest.approx(0.992027944, rel=EXACT)
    assert rules.sde_beta(0.9, 8) == pytest.approx(0.2, rel=EXACT)
    assert rules.sde_beta(0.999, 8) == pytest.approx(0.992, rel=EXACT)
    assert rules.sde_eps(1e-8, 8) == pytest.approx(3.53553391e-9, rel=EXACT)
    assert rules.noise_scale_lr(500, 0.4, 2000) == pytest.approx(0.08, rel=EXACT)
    assert rules.noise_scale_lr(1000, 0.4, 2000) == pytest.approx(0.133333333, rel=EXACT)


@pytest.mark.parametrize(
    ("batch", "lr"), [(64, 4.70588235e-4), (256, 8e-4), (1024, 1e-3), (4096, 8e-4)]
)
def test_the_surge_peaks_at_its_batch_size(batch: int, lr: float) -> None:
    assert rules.surge_lr(batch, 1e-3, 1024) == pytest.approx(lr, rel=EXACT)


@given(kappas, kappas, lrs)
@settings(deadline=None, derandomize=True)
def test_rules_compose_and_return(first: float, second: float, lr: float) -> None:
    for rule in (rules.linear, rules.sqrt):
        there = rule(rule(lr, first), second)
        assert there == pytest.approx(rule(lr, first * second), rel=1e-12)
        assert rule(rule(lr, first), 1 / first) == pytest.approx(lr, rel=1e-12)


@given(st.floats(1, 1e5), st.floats(1, 1e5), st.floats(1, 1e5), st.floats(1e-2, 1e7))
@settings(deadline=None, derandomize=True)
def test_the_gain_is_transitive_and_lies_between_keep_and_linear(
    first: float, second: float, third: float, noise: float
) -> None:
    direct = rules.gain(first, third, noise)
    assert direct == pytest.approx(
        rules.gain(first, second, noise) * rules.gain(second, third, noise), rel=1e-9
    )
    kappa = third / first
    assert min(1, kappa) * (1 - 1e-12) <= direct <= max(1, kappa) * (1 + 1e-12)


def test_the_gain_has_the_two_limits() -> None:
    assert rules.gain(128, 1024, 1e15) == pytest.approx(8, rel=1e-9)
    assert rules.gain(128, 1024, 1e-9) == pytest.approx(1, rel=1e-9)


@given(st.floats(0, 0.9999), st.floats(1e-3, 1.0), st.floats(1e-3, 1.0))
@settings(deadline=None, derandomize=True)
def test_the_sde_keeps_the_horizon_and_shrinks_composably(
    beta: float, first: float, second: float
) -> None:
    once = rules.sde_beta(rules.sde_beta(beta, first), second)
    if beta > 0:
        assert 1 - once == pytest.approx((1 - beta) * first * second, rel=1e-9, abs=1e-15)
    else:
        assert once == 0


def test_half_life_and_sde_agree_to_first_order() -> None:
    for beta in (0.999, 0.9999):
        gap = rules.half_life_beta(beta, 4) - rules.sde_beta(beta, 4)
        assert 0 < gap < (4 * (1 - beta)) ** 2


def test_the_half_life_is_the_same_number_of_samples_at_every_batch_size() -> None:
    beta = rules.beta_of_half_life(128, 50_000)
    assert rules.half_life_beta(beta, 8) == pytest.approx(rules.beta_of_half_life(1024, 50_000))
    assert rules.beta_of_half_life(50_000, 50_000) == 0.5


@pytest.mark.parametrize(("kappa", "refused"), [(9.99, False), (10.0, True), (16.0, True)])
def test_the_sde_refuses_where_the_decay_rate_would_not_be_one(kappa: float, refused: bool) -> None:
    if not refused:
        assert rules.sde_beta(0.9, kappa) > 0
        return
    with pytest.raises(Refusal) as caught:
        rules.sde_beta(0.9, kappa)
    assert caught.value.field == "beta1"
    assert caught.value.facts["instead"] == pytest.approx(0.9**10)
    assert "beta1^10 = 0.3487" in str(caught.value)


def test_no_average_gets_a_horizon_below_one_step() -> None:
    for beta in (0.5, 0.9, 0.999):
        floor = beta ** (1 / (1 - beta))
        assert rules.half_life_beta(beta, 0.99 / (1 - beta)) > floor
        for kappa in (1 / (1 - beta), 64, 1e6):
            assert rules.half_life_beta(beta, max(kappa, 1 / (1 - beta))) == pytest.approx(floor)
    assert rules.half_life_beta(0.0, 64) == 0.0, "no average stays none"


def test_eps_inside_the_root_scales_with_its_square() -> None:
    eps = 1e-7
    outside = math.sqrt(eps)  # Keras RMSprop's 1e-7 inside the root acts like 3.16e-4 outside
    assert outside == pytest.approx(3.16e-4, rel=1e-3)
    assert math.sqrt(rules.sde_eps(eps, 8, inside_root=True)) == pytest.approx(
        rules.sde_eps(outside, 8)
    )


class TestGreedyStep:
    H, G, S = np.diag([1.0, 4.0]), np.array([2.0, 1.0]), np.diag([3.0, 5.0])

    def test_published_case(self) -> None:
        step = rules.greedy_step(self.H, self.G, self.S)
        assert step.lr_max == pytest.approx(0.625, rel=EXACT)
        assert step.noise_scale == pytest.approx(2.875, rel=EXACT)
        assert step.simple_noise_scale == pytest.approx(1.6, rel=EXACT)
        assert step.lr(1) == pytest.approx(0.161290323, rel=EXACT)
        assert step.lr(8) == pytest.approx(0.459770115, rel=EXACT)

    def test_no_other_step_lowers_the_expected_loss_more(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(20):
            a = rng.standard_normal((4, 4))
            hessian, gradient = a @ a.T, rng.standard_normal(4)
            b = rng.standard_normal((4, 4))
            covariance = b @ b.T
            batch = float(rng.integers(1, 100))

            drift, curvature = gradient @ gradient, gradient @ hessian @ gradient
            curvature += np.trace(hessian @ covariance) / batch
            best = rules.greedy_step(hessian, gradient, covariance).lr(batch)
            lr = best * np.array([0.999, 1.0, 1.001])
            loss = -lr * drift + 0.5 * lr**2 * curvature
            assert np.argmin(loss) == 1

    def test_the_two_noise_scales_agree_for_a_round_bowl(self) -> None:
        step = rules.greedy_step(3 * np.eye(2), self.G, self.S)
        assert step.noise_scale == pytest.approx(step.simple_noise_scale)

    def test_a_hill_has_no_best_step(self) -> None:
        with pytest.raises(Refusal, match="hessian"):
            rules.greedy_step(-self.H, self.G, self.S)


class TestSurge:
    """Against the exact expectation of a sign step, with no approximation of erf."""

    def exact(
        self, hessian: np.ndarray, gradient: np.ndarray, sigma: np.ndarray, batch: float
    ) -> float:
        mean = np.array(
            [math.erf(math.sqrt(batch / 2) * g / s) for g, s in zip(gradient, sigma, strict=True)]
        )
        outer = np.outer(mean, mean)
        np.fill_diagonal(outer, 1.0)
        return float(gradient @ mean / np.sum(hessian * outer))

    def test_the_formula_is_the_small_signal_limit(self) -> None:
        rng = np.random.default_rng(1)
        d = 2000  # weak coordinates, many of them: erf is linear up to the peak
        gradient = np.abs(rng.standard_normal(d)) * 1e-3
        sigma = np.ones(d)
        hessian = np.full((d, d), 0.5) + np.diag(np.full(d, 0.5))
        peak = rules.surge_peak(hessian, gradient, sigma)
        top = self.exact(hessian, gradient, sigma, peak)
        for factor in (1 / 64, 1 / 4, 1, 4, 64):
            expected = self.exact(hessian, gradient, sigma, peak * factor)
            assert rules.surge_lr(peak * factor, top, peak) == pytest.approx(expected, rel=0.03)

    def test_large_batches_take_the_noiseless_sign_step(self) -> None:
        hessian = np.array([[2.0, 0.3], [0.3, 1.0]])
        gradient = np.array([0.5, -0.2])
        limit = rules.surge_large_batch_lr(hessian, gradient)
        assert self.exact(hessian, gradient, np.ones(2), 1e6) == pytest.approx(limit, rel=1e-9)
        assert limit == pytest.approx(0.7 / 2.4)

    @given(st.floats(1e-2, 1e6), st.floats(1, 1e5), st.floats(1.001, 1e3))
    @settings(deadline=None, derandomize=True)
    def test_symmetric_about_the_peak(self, lr: float, peak: float, factor: float) -> None:
        left, right = (rules.surge_lr(b, lr, peak) for b in (peak / factor, peak * factor))
        assert left == pytest.approx(right)
        assert left < lr

    def test_far_below_the_peak_it_is_the_sqrt_rule(self) -> None:
        ratio = rules.surge_lr(4, 1.0, 1e9) / rules.surge_lr(1, 1.0, 1e9)
        assert ratio == pytest.approx(2, rel=1e-6)

    def test_no_peak_without_a_positive_sum(self) -> None:
        with pytest.raises(Refusal, match="no peak"):
            rules.surge_peak(np.eye(2), np.array([1.0, 1.0]), np.ones(2))


class TestDecay:
    def test_published_cases(self) -> None:
        assert rules.scaled_decay(0.1, 8, 1, "lr", "epochs") == pytest.approx(0.8, rel=EXACT)
        root = math.sqrt(8)
        assert rules.scaled_decay(0.1, 8, root, "lr", "epochs") == pytest.approx(
            0.282842712, rel=EXACT
        )
        assert rules.scaled_decay(0.1, 8, 8, "lr", "epochs") == pytest.approx(0.1, rel=EXACT)
        assert rules.scaled_decay(0.1, 8, root, "direct", "epochs") == pytest.approx(0.8)

    @given(kappas, st.floats(0.1, 10), st.floats(1e-6, 1))
    @settings(deadline=None, derandomize=True)
    def test_the_timescale_in_epochs_is_what_stays(
        self, kappa: float, ratio: float, decay: float
    ) -> None:
        new = rules.scaled_decay(decay, kappa, ratio, "lr", "epochs")
        before = rules.decay_timescale(1e-3, decay, 64, 50_000)
        after = rules.decay_timescale(1e-3 * ratio, new, 64 * kappa, 50_000)
        assert after == pytest.approx(before, rel=1e-9)

    @pytest.mark.parametrize("form", ["preconditioned", "trust-ratio"])
    def test_decay_inside_a_preconditioner_has_no_rule(self, form: str) -> None:
        with pytest.raises(Refusal, match="adamw") as caught:
            rules.scaled_decay(0.1, 8, 1, form, "epochs")
        assert caught.value.field == "weight_decay"

    def test_weights_of_adamw_average_over_the_timescale(self) -> None:
        # w' = (1 - lr wd) w + lr u: an exponential average whose time constant is 1 / (lr wd).
        lr, decay, batch, data = 0.01, 0.5, 10, 2000
        steps = rules.decay_timescale(lr, decay, batch, data) * data / batch
        weight = (1 - lr * decay) ** steps
        assert weight == pytest.approx(math.exp(-1), rel=0.01)


class TestMomentum:
    def test_the_effective_lr_stays(self) -> None:
        assert rules.momentum_lr(0.1, 0.9, 0.95) == pytest.approx(0.05)
        assert rules.momentum_lr(0.1, 0.0, 0.9) == pytest.approx(0.01)
        assert rules.momentum_lr(rules.momentum_lr(0.3, 0.9, 0.99), 0.99, 0.9) == pytest.approx(0.3)

    def test_simulated_drift_is_the_same(self) -> None:
        def travelled(lr: float, momentum: float) -> float:
            velocity = position = 0.0
            for _ in range(20_000):
                velocity = momentum * velocity + 1.0
                position += lr * velocity
            return position

        new = rules.momentum_lr(1e-3, 0.9, 0.99)
        assert travelled(new, 0.99) == pytest.approx(travelled(1e-3, 0.9), rel=0.01)

    @pytest.mark.parametrize(
        ("old", "new", "names"), [(0.9, 0.999, "new_momentum"), (0.999, 0.9, "momentum")]
    )
    def test_refuses_a_run_too_short_for_it(self, old: float, new: float, names: str) -> None:
        assert rules.momentum_lr(0.1, old, new, steps=10_000) > 0
        with pytest.raises(Refusal, match="1e\\+03 steps") as caught:
            rules.momentum_lr(0.1, old, new, steps=9_000)
        assert caught.value.field == names

    @pytest.mark.parametrize("bad", [-0.1, 1.0, float("nan")])
    def test_refuses_what_is_no_momentum(self, bad: float) -> None:
        with pytest.raises(InvalidInput, match="new_momentum"):
            rules.momentum_lr(0.1, 0.9, bad)


def test_two_steps_with_momentum_as_published() -> None:
    # theta -= lr b, b = mu b + g, from 1.0 with g = .5, lr .1, mu .9
    theta, buffer = 1.0, 0.0
    nesterov, nag_buffer = 1.0, 0.0
    for _ in range(2):
        buffer = 0.9 * buffer + 0.5
        theta -= 0.1 * buffer
        nag_buffer = 0.9 * nag_buffer + 0.5
        nesterov -= 0.1 * (0.5 + 0.9 * nag_buffer)
    assert theta == pytest.approx(0.855)
    assert nesterov == pytest.approx(0.7695)
    # the same distance in the long run at another momentum is what momentum_lr is for
    assert rules.momentum_lr(0.1, 0.9, 0.9) == 0.1


class TestStabilityLimit:
    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
    def test_heavy_ball_diverges_just_above(self, momentum: float) -> None:
        curvature = 3.0
        limit = rules.stability_limit("sgd", curvature, momentum=momentum)
        for factor, grows in ((0.999, False), (1.001, True)):
            companion = np.array(
                [[1 + momentum - factor * limit * curvature, -momentum], [1.0, 0.0]]
            )
            assert bool(np.abs(np.linalg.eigvals(companion)).max() > 1 + 1e-9) is grows

    @pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
    def test_adam_with_a_fixed_denominator_diverges_just_above(self, beta1: float) -> None:
        curvature = 2.0
        limit = rules.stability_limit("adam", curvature, beta1=beta1)
        for factor, grows in ((0.999, False), (1.001, True)):
            lr = factor * limit
            # (theta, m) -> m' = beta1 m + (1 - beta1) c theta ; theta' = theta - lr m'
            step = np.array(
                [
                    [1 - lr * (1 - beta1) * curvature, -lr * beta1],
                    [(1 - beta1) * curvature, beta1],
                ]
            )
            assert bool(np.abs(np.linalg.eigvals(step)).max() > 1 + 1e-9) is grows

    def test_thirty_eight(self) -> None:
        assert rules.stability_limit("adam", 1.0) == pytest.approx(38.0)

    def test_refuses_what_it_does_not_know(self) -> None:
        with pytest.raises(Refusal):
            rules.stability_limit("sign", 1.0)
        with pytest.raises(InvalidInput, match="curvature"):
            rules.stability_limit("sgd", 0.0)


@pytest.mark.parametrize(
    ("steps", "kappa", "beta2", "expected"),
    [
        (1000, 8, None, 125),
        (1000, 8, 0.992, 250),
        (0, 8, 0.999, 0),
        (1000, 0.5, None, 2000),
        (1001, 8, None, 126),
        (7, 7, None, 1),
    ],
)
def test_warmup(steps: int, kappa: float, beta2: float | None, expected: int) -> None:
    assert rules.warmup_steps(steps, kappa, beta2) == expected


def test_power_lines() -> None:
    assert rules.power_line_timescale(1.0, 20, 20) == 1
    assert rules.power_line_timescale(1.0, 20, 80) == pytest.approx(4**-0.527)
    assert rules.power_line_batch(512, 1e9, 16e9) == pytest.approx(512 * 16**0.4)
    assert rules.power_line_batch(512, 1e9, 16e9, critical=True) == pytest.approx(2048)


def mean_loss(lr: float, batch: float, steps: int) -> float:
    """SGD on half theta squared from 3 with noise 30 a sample, 20,000 replicas."""
    rng = np.random.default_rng(5)
    theta = np.full(20_000, 3.0)
    for _ in range(steps):
        noise = rng.standard_normal(theta.size, dtype=np.float32)
        theta -= lr * (theta + 30 * noise / math.sqrt(batch))
    return float(0.5 * np.mean(theta**2))


def exact_loss(lr: float, batch: float, steps: int) -> float:
    shrink = (1 - lr) ** 2
    noise = lr**2 * 900 / batch
    return 0.5 * (9 * shrink**steps + noise * (1 - shrink**steps) / (1 - shrink))


@pytest.mark.parametrize("kappa", [4, 8])
def test_on_a_noisy_bowl_linear_keeps_the_loss_and_sqrt_more_than_doubles_it(kappa: int) -> None:
    assert exact_loss(1e-3, 1, 2000) == pytest.approx(0.300, rel=0.05)
    steps = 2000 // kappa
    assert mean_loss(rules.linear(1e-3, kappa), kappa, steps) == pytest.approx(0.300, rel=0.05)
    lr = rules.sqrt(1e-3, kappa)
    assert mean_loss(lr, kappa, steps) > 2 * 0.300
    assert mean_loss(lr, kappa, steps) == pytest.approx(exact_loss(lr, kappa, steps), rel=0.05)
