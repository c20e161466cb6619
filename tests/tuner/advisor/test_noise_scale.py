"""The estimators against gradients whose noise is known exactly."""

from __future__ import annotations

import doctest
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.advisor import noise_scale as ns
from tuner.errors import InvalidInput
from tuner.training.noise import NoiseWindows


class Regression:
    """S1: x ~ N(0, diag 1/i), d = 20, weights off by 1 in every coordinate, label noise 1."""

    h = 1 / np.arange(1, 21)
    gradient = h
    covariance = np.outer(h, h) + (h.sum() + 1) * np.diag(h)
    sq_norm = float(h @ h)
    trace = float(np.trace(covariance))
    noise = trace / sq_norm

    @classmethod
    def micro_batches(cls, rng: np.random.Generator, k: int, b: int) -> np.ndarray:
        x = rng.standard_normal((k, b, 20)) * np.sqrt(cls.h)
        residual = x.sum(-1) + rng.standard_normal((k, b))
        return np.einsum("kbd,kb->kd", x, residual) / b


def moments(gradients: np.ndarray, b: int) -> ns.Estimate:
    """``[..., k, d]`` micro-batch gradients to estimates."""
    return ns.estimate(
        (gradients**2).sum((-1, -2)), (gradients.mean(-2) ** 2).sum(-1), gradients.shape[-2], b
    )


def test_the_docstring_examples_run() -> None:
    assert doctest.testmod(ns).failed == 0


def test_published_truth_of_the_regression() -> None:
    assert Regression.sq_norm == pytest.approx(1.59616324, rel=1e-6)
    assert Regression.trace == pytest.approx(18.1376335, rel=1e-6)
    assert Regression.noise == pytest.approx(11.3632698, rel=1e-6)


def test_two_sizes_published_case_and_agreement() -> None:
    pair = ns.two_sizes(5.0, 32, 1.2, 256)
    assert float(pair.sq_norm) == pytest.approx(0.657142857, rel=1e-6)
    assert float(pair.trace) == pytest.approx(138.971429, rel=1e-6)
    assert float(pair.ratio) == pytest.approx(211.478261, rel=1e-6)
    slots = ns.estimate(8 * 5.0, 1.2, 8, 32)
    assert float(slots.sq_norm) == pytest.approx(float(pair.sq_norm), rel=1e-12)
    assert float(slots.trace) == pytest.approx(float(pair.trace), rel=1e-12)
    with pytest.raises(InvalidInput, match="small"):
        ns.two_sizes(5.0, 256, 1.2, 256)


@given(st.integers(2, 16), st.integers(1, 64), st.integers(0, 1000))
@settings(deadline=None, derandomize=True)
def test_the_sums_are_the_definition(k: int, b: int, seed: int) -> None:
    gradients = np.random.default_rng(seed).standard_normal((k, 5))
    between = ((gradients - gradients.mean(0)) ** 2).sum() / (k - 1)
    found = moments(gradients, b)
    assert float(found.trace) == pytest.approx(b * between, rel=1e-9)
    assert float(found.sq_norm) == pytest.approx(
        (gradients.mean(0) ** 2).sum() - between / k, abs=1e-9
    )


def test_estimates_are_unbiased_and_as_sharp_as_published() -> None:
    rng = np.random.default_rng(0)
    rows = [moments(Regression.micro_batches(rng, 256, 32), 32) for _ in range(400)]
    sq_norm = np.array([float(row.sq_norm) for row in rows])
    trace = np.array([float(row.trace) for row in rows])
    assert sq_norm.mean() == pytest.approx(Regression.sq_norm, rel=0.015)
    assert trace.mean() == pytest.approx(Regression.trace, rel=0.015)
    ratio = trace / sq_norm
    assert ratio.mean() == pytest.approx(Regression.noise, rel=0.015)
    assert ratio.std() / Regression.noise <= 0.06


def test_a_small_estimate_is_unbiased_too_and_goes_negative() -> None:
    rng = np.random.default_rng(1)
    gradients = np.array([0.1, 0.0]) + rng.standard_normal((200_000, 2, 2))
    found = moments(gradients, 1)
    assert found.trace.mean() == pytest.approx(2, rel=0.01)
    assert found.sq_norm.mean() == pytest.approx(0.01, abs=5 * found.sq_norm.std() / 447)
    assert (found.sq_norm < 0).mean() > 0.3  # never clipped: clipping would bias the mean


def test_accuracy_formulae_match_simulation() -> None:
    rho = float(
        Regression.gradient
        @ Regression.covariance
        @ Regression.gradient
        / (Regression.sq_norm * Regression.trace)
    )
    dimension = Regression.trace**2 / float(np.sum(Regression.covariance**2))
    rng = np.random.default_rng(2)
    k, b = 32, 32
    root = np.linalg.cholesky(Regression.covariance / b)
    gradients = Regression.gradient + rng.standard_normal((4000, k, 20)) @ root.T
    found = moments(gradients, b)
    expected = ns.relative_errors(Regression.noise, k * b, k, rho, dimension)
    assert found.sq_norm.std() / Regression.sq_norm == pytest.approx(expected[0], rel=0.05)
    assert found.trace.std() / Regression.trace == pytest.approx(expected[1], rel=0.05)
    assert expected[0] == pytest.approx(0.111, abs=0.002)


def test_samples_needed_has_the_published_extremes() -> None:
    n, _ = ns.samples_needed(100, 1.0, 1e12)
    assert n == pytest.approx(400 * 100, rel=0.01)
    n, k = ns.samples_needed(100, 0.0, 1e4)
    assert n == pytest.approx(0.14 * 100, abs=1)
    assert k == 2
    n, k = ns.samples_needed(50, 0.05, 20, relative=0.1)
    assert max(ns.relative_errors(50, n, k, 0.05, 20)) == pytest.approx(0.1, rel=0.05)


def test_without_replacement_needs_the_correction() -> None:
    rng = np.random.default_rng(3)
    size, k, b = 40, 4, 8
    data = np.array([1.0, -0.5, 0.2]) + rng.standard_normal((size, 3))
    truth = float((data.mean(0) ** 2).sum())
    order = rng.permuted(np.tile(np.arange(size), (40_000, 1)), axis=1)[:, : k * b]
    gradients = data[order].reshape(-1, k, b, 3).mean(2)
    total, mean_sq = (gradients**2).sum((1, 2)), (gradients.mean(1) ** 2).sum(1)
    right = ns.estimate(total, mean_sq, k, b, population=size)
    naive = ns.estimate(total, mean_sq, k, b)
    assert right.sq_norm.mean() == pytest.approx(truth, rel=0.01)
    assert right.trace.mean() == pytest.approx(data.var(0, ddof=1).sum(), rel=0.01)
    assert abs(naive.sq_norm.mean() - truth) > 5 * abs(right.sq_norm.mean() - truth)
    whole = ns.estimate(total, mean_sq, k, b, population=k * b)
    assert np.array_equal(whole.sq_norm, mean_sq)


def test_broadcasts_over_trials_with_different_batch_sizes() -> None:
    found = ns.estimate(np.array([40.0, 4.0, 3.0]), np.array([1.2, 1.0, 3.0]), [8, 2, 1], 32)
    assert found.trace.shape == (3,)
    assert found.trace[0] == pytest.approx(138.971429)
    assert np.isnan(found.trace[2])
    assert np.isnan(found.sq_norm[2])
    assert found.to_dict()["trace"][2] is None


def test_float32_inputs_are_not_computed_in_float32() -> None:
    found = ns.estimate(np.float32(2e8), np.float32(1e8) - 8, 2, 1)
    assert found.trace.dtype == np.float64


class TestJackknife:
    def test_standard_errors_match_the_spread(self) -> None:
        rng = np.random.default_rng(4)
        rows = []
        for _ in range(300):
            gradients = Regression.micro_batches(rng, 32, 32)
            rows.append(ns.jackknife(gradients @ gradients.T, 32))
        for name in ("sq_norm", "trace", "ratio"):
            values = np.array([getattr(row, name) for row in rows])
            errors = np.array([getattr(row, name + "_error") for row in rows])
            assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.2)

    def test_removes_the_bias_of_the_ratio(self) -> None:
        rng = np.random.default_rng(5)
        plain, corrected = [], []
        for _ in range(1500):
            gradients = Regression.micro_batches(rng, 24, 8)
            plain.append(float(moments(gradients, 8).ratio))
            corrected.append(ns.jackknife(gradients @ gradients.T, 8).ratio)
        bias = np.mean(plain) - Regression.noise
        assert abs(np.mean(corrected) - Regression.noise) < abs(bias) / 2

    def test_agrees_with_the_plain_estimate(self) -> None:
        gradients = Regression.micro_batches(np.random.default_rng(6), 5, 4)
        found, plain = ns.jackknife(gradients @ gradients.T, 4), moments(gradients, 4)
        assert found.trace == pytest.approx(float(plain.trace))
        assert found.sq_norm == pytest.approx(float(plain.sq_norm))
        assert json.loads(json.dumps(found.to_dict()))["trace"] == pytest.approx(found.trace)

    def test_needs_three(self) -> None:
        with pytest.raises(InvalidInput, match="gram"):
            ns.jackknife(np.eye(2), 4)


def test_what_the_population_engine_stores_are_these_estimates() -> None:
    gradients = Regression.micro_batches(np.random.default_rng(14), 6, 4)
    found = moments(gradients, 4)
    windows = NoiseWindows()
    windows.add(6, 4, float((gradients**2).sum()), float((gradients.mean(0) ** 2).sum()))
    assert windows.windows[0] == pytest.approx((float(found.trace), float(found.sq_norm)))


def series(rng: np.random.Generator, steps: int, k: int, b: int) -> ns.Estimate:
    root = np.linalg.cholesky(Regression.covariance / b)
    return moments(Regression.gradient + rng.standard_normal((steps, k, 20)) @ root.T, b)


class TestSummarize:
    def test_the_interval_covers(self) -> None:
        rng = np.random.default_rng(7)
        hits = 0
        for repeat in range(300):
            found = series(rng, 100, 4, 4)
            known = ns.summarize(found.sq_norm, found.trace, seed=repeat, draws=300)
            hits += (known.low or 0) <= Regression.noise <= (known.high or math.inf)
        assert 0.90 <= hits / 300 <= 0.99

    def test_with_enough_data_it_is_near_the_truth(self) -> None:
        found = series(np.random.default_rng(8), 2000, 4, 16)
        known = ns.summarize(found.sq_norm, found.trace)
        assert known.value == pytest.approx(Regression.noise, rel=0.03)
        assert known.low is not None
        assert known.high is not None
        assert known.low < known.value < known.high
        assert "samples" in str(known)

    def test_negative_signal_leaves_only_a_lower_bound(self) -> None:
        rng = np.random.default_rng(9)
        sq_norms = rng.normal(-0.001, 0.1, 200)
        known = ns.summarize(sq_norms - sq_norms.mean() - 0.001, np.full(200, 5.0))
        assert known.value is None
        assert known.high is None
        assert known.low is not None
        assert known.low > 5 / 0.05
        assert "at least" in str(known)
        assert "signal" in known.why

    def test_hopelessly_negative_signal_leaves_nothing(self) -> None:
        known = ns.summarize(np.full(50, -1.0), np.full(50, 5.0))
        assert (known.value, known.low, known.high) == (None, None, None)

    def test_weak_signal_is_unbounded_above(self) -> None:
        rng = np.random.default_rng(10)
        sq_norms = rng.normal(0, 1, 100)
        known = ns.summarize(sq_norms - sq_norms.mean() + 0.02, np.full(100, 5.0))
        assert known.value == pytest.approx(250)
        assert known.high is None
        assert "above" in known.why

    @pytest.mark.parametrize(
        ("sq_norms", "traces", "why"),
        [
            ([], [], "0 measurements"),
            ([1.0] * 7, [1.0] * 7, "7 measurements"),
            ([1.0] * 7 + [np.nan] * 9, [1.0] * 16, "7 measurements"),
            ([1.0] * 20, [0.0] * 20, "no noise"),
        ],
    )
    def test_what_cannot_be_known_says_why(
        self, sq_norms: list[float], traces: list[float], why: str
    ) -> None:
        known = ns.summarize(sq_norms, traces)
        assert known.value is None
        assert why in known.why
        assert json.loads(json.dumps(known.to_dict()))["value"] is None

    def test_blocks_are_resampled_as_if_written_out(self) -> None:
        """The quick sums against plain resampling of rows: the same spread of the mean."""
        rng = np.random.default_rng(15)
        values = np.cumsum(rng.standard_normal(97)) * 0.1
        quick = ns._resampled(values[None], 6, 20_000, np.random.default_rng(1))[0]
        starts = np.random.default_rng(2).integers(0, 97, (20_000, 17))
        rows = ((starts[..., None] + np.arange(6)) % 97).reshape(20_000, -1)[:, :97]
        plain = values[rows].mean(-1)
        assert quick.mean() == pytest.approx(values.mean(), abs=4 * quick.std() / 141)
        assert quick.std() == pytest.approx(plain.std(), rel=0.03)

    @pytest.mark.parametrize(
        ("metrics", "value", "low", "high"),
        [
            ({"noise_scale": 5.0, "noise_scale_low": 4.0, "noise_scale_high": 6.0}, 5.0, 4.0, 6.0),
            (
                {"noise_scale": 5.0, "noise_scale_low": 4.0, "noise_scale_high": None},
                5.0,
                4.0,
                None,
            ),
            ({"noise_scale": None, "noise_scale_low": 4.0}, None, 4.0, None),
            ({"noise_scale": 5.0}, 5.0, None, None),
        ],
    )
    def test_what_a_trial_stored_comes_back(
        self,
        metrics: dict[str, float | None],
        value: float | None,
        low: float | None,
        high: float | None,
    ) -> None:
        known = ns.NoiseScale.from_metrics(metrics)
        assert known is not None
        assert (known.value, known.low, known.high) == (value, low, high)
        assert ("drowns" in str(known)) is (value is None)

    @pytest.mark.parametrize("metrics", [{}, {"noise_scale": math.nan}, {"noise_scale": -1.0}])
    def test_what_was_never_measured_is_nothing(self, metrics: dict[str, float | None]) -> None:
        assert ns.NoiseScale.from_metrics(metrics) is None

    def test_same_seed_same_interval(self) -> None:
        found = series(np.random.default_rng(11), 50, 4, 4)
        once = ns.summarize(found.sq_norm, found.trace, seed=3)
        assert once == ns.summarize(found.sq_norm, found.trace, seed=3)
        assert once != ns.summarize(found.sq_norm, found.trace, seed=4)

    def test_units_cancel(self) -> None:
        found = series(np.random.default_rng(12), 50, 4, 4)
        once = ns.summarize(found.sq_norm, found.trace)
        scaled = ns.summarize(found.sq_norm * 1e6, found.trace * 1e6)
        assert scaled.value == pytest.approx(once.value)
        assert scaled.low == pytest.approx(once.low)

    def test_autocorrelated_series_get_a_wider_interval_from_blocks(self) -> None:
        rng = np.random.default_rng(13)
        noise = rng.standard_normal(400)
        for i in range(1, 400):
            noise[i] = 0.9 * noise[i - 1] + math.sqrt(0.19) * noise[i]
        sq_norms = 1 + 0.3 * noise
        widths = []
        for block in (1, 30):
            known = ns.summarize(sq_norms, np.full(400, 5.0), block=block)
            assert known.low is not None
            assert known.high is not None
            widths.append(known.high - known.low)
        assert widths[1] > 1.7 * widths[0]


def test_an_interval_that_a_trial_reported_holds_its_value() -> None:
    told = {"noise_scale": 500.0, "noise_scale_low": 700.0, "noise_scale_high": 900.0}
    found = ns.NoiseScale.from_metrics(told)
    assert found is not None
    assert (found.low, found.value, found.high) == (500.0, 500.0, 900.0)
