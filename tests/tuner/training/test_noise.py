from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tuner.tasks import Arrays, Config, Splits, Task
from tuner.training.noise import NoiseWindows
from tuner.training.population import Population

# Linear regression x ~ N(0, diag 1/i), d = 20, error delta = 1 in each weight, noise variance 1.
DIMENSION, SAMPLES = 20, 100_000
TRACE, SIGNAL = 18.1376335, 1.59616324


class Regression(Task):
    """Its gradient noise is known in closed form: Sigma = GG' + (delta'H delta + 1) H."""

    name = "regression"

    def data(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        scale = torch.arange(1, DIMENSION + 1).double().rsqrt()
        x = torch.randn(SAMPLES, DIMENSION, generator=generator, dtype=torch.float64) * scale
        noise = torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
        y = -x.sum(1) + noise
        return Splits(Arrays(x, y), Arrays(x[:10], y[:10]))

    def model(self, config: Config) -> nn.Module:
        layer = nn.Linear(DIMENSION, 1, bias=False)
        nn.init.zeros_(layer.weight)
        return layer

    def loss(self, output: Tensor, target: Tensor, config: Config) -> Tensor:
        return 0.5 * (output[:, 0] - target) ** 2


@pytest.mark.parametrize(("batch_sizes", "m"), [([512, 1024], 512), ([256, 2048], 256)])
def test_the_estimate_is_the_closed_form(batch_sizes: list[int], m: int) -> None:
    """At a rate of zero all batches measure one point; both ways of splitting agree with it."""
    config = {"optimizer": "sgd", "lr": 0.0, "batch_size": batch_sizes[0]}
    task = Regression()
    pop = Population(task, config, 2, dtype=torch.float64, check=False)
    pop.trainer.noise_every = 1
    for slot, batch_size in enumerate(batch_sizes):
        chosen = {**config, "batch_size": batch_size}
        pop.load(slot, chosen, 0, epochs=1)
    assert pop.trainer.micro_batch(batch_sizes) == m
    pop.train(SAMPLES)
    for slot in (0, 1):
        windows = pop.slot(slot).noise.windows
        traces, signals = (np.array(column) for column in zip(*windows, strict=True))
        assert abs(traces.mean() - TRACE) < 4 * traces.std() / math.sqrt(len(traces)) + 0.2
        assert abs(signals.mean() - SIGNAL) < 4 * signals.std() / math.sqrt(len(signals)) + 0.02


def test_a_batch_that_was_begun_elsewhere_is_not_measured() -> None:
    """What its first parts were is not in a checkpoint; without them the rest would look noisy."""
    config = {"optimizer": "sgd", "lr": 0.0, "batch_size": 512}
    measured = []
    for pieces in ([2048], [100, 1948], [256, 1792], [512, 1536]):
        pop = Population(
            Regression(), config, 1, dtype=torch.float64, check=False, max_micro_batch=256
        )
        pop.trainer.noise_every = 1
        pop.load(0, config, 0, epochs=1)
        for samples in pieces:
            pop.train(samples)
        measured.append(list(pop.slot(0).noise.windows))
    whole, *torn, aligned = measured
    assert len(whole) == 4
    assert np.allclose(aligned, whole)
    for windows in torn:
        assert np.allclose(windows, whole[1:])


def test_noise_does_not_change_training() -> None:
    """A batch measured in halves gives the same step as one that is not."""
    task = Regression()
    config = {"optimizer": "sgd", "lr": 0.05, "batch_size": 100}
    weights = []
    for every in (1, 10**9):
        pop = Population(task, config, 1, dtype=torch.float64, check=False)
        pop.trainer.noise_every = every
        pop.load(0, config, 0, epochs=1)
        pop.train(3000)
        weights.append(pop.state_dict(0)["tensors"]["param.weight"])
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=0)


def test_a_scale_that_noise_drowns_is_unknown() -> None:
    windows = NoiseWindows()
    assert windows.scale is None
    windows.add(parts=2, part_size=8, parts_sq=2.0, mean_sq=0.1)
    assert windows.signal < 0
    assert windows.scale is None


def test_two_sizes_by_hand() -> None:
    """The worked case: |g|^2 of 5 at 32 samples and 1.2 at 256, so eight parts of 32."""
    windows = NoiseWindows()
    windows.add(parts=8, part_size=32, parts_sq=8 * 5.0, mean_sq=1.2)
    assert windows.signal == pytest.approx(0.657142857, rel=1e-6)
    assert windows.trace == pytest.approx(138.971429, rel=1e-6)
    assert windows.scale == pytest.approx(211.478261, rel=1e-6)


def test_averages_survive_a_round_trip() -> None:
    windows = NoiseWindows()
    for k in range(300):
        windows.add(2, 4, 3.0 + k % 5, 1.0)
    again = NoiseWindows.from_dict(json.loads(json.dumps(windows.to_dict())))
    assert again == windows
    windows.add(2, 4, math.nan, 1.0)
    assert again == windows


class TestWindows:
    def test_constant_measurements_pass_through_from_the_first(self) -> None:
        windows = NoiseWindows()
        for _ in range(3):
            windows.add(parts=2, part_size=1, parts_sq=7.0, mean_sq=2.5)
            assert (windows.trace, windows.signal) == pytest.approx((2.0, 1.5))
            assert windows.scale == pytest.approx(2.0 / 1.5)

    def test_numerator_and_denominator_are_averaged_apart(self) -> None:
        """The mean of ratios would be far off: one tiny denominator dominates it."""
        windows = NoiseWindows()
        windows.add(parts=2, part_size=1, parts_sq=4.0, mean_sq=1.5)  # trace 1, signal 1
        windows.add(parts=2, part_size=1, parts_sq=2.0, mean_sq=0.5)  # trace 1, signal 1e-17
        assert windows.scale == pytest.approx(2.0)

    def test_what_is_not_finite_leaves_all_as_it_was(self) -> None:
        windows = NoiseWindows()
        windows.add(parts=2, part_size=1, parts_sq=7.0, mean_sq=2.5)
        before = windows.to_dict()
        for broken in (math.nan, math.inf):
            windows.add(parts=2, part_size=1, parts_sq=broken, mean_sq=2.5)
        assert windows.to_dict() == before

    def test_an_interval_is_reported_where_it_is_known(self) -> None:
        windows = NoiseWindows()
        nothing = {"noise_scale": None, "noise_scale_low": None, "noise_scale_high": None}
        assert windows.metrics() == nothing
        rng = np.random.default_rng(0)
        for _ in range(100):
            gradients = np.array([1.0, 0.0]) + rng.standard_normal((4, 2))
            mean = gradients.mean(0)
            windows.add(4, 1, float((gradients**2).sum()), float((mean**2).sum()))
        told = windows.metrics()
        low, high = told["noise_scale_low"], told["noise_scale_high"]
        assert low is not None
        assert high is not None
        assert low < 2.0 < high
        assert told == windows.metrics()

    def test_the_interval_is_found_anew_when_there_is_news_enough(self) -> None:
        """Also after a pause: what is reported does not depend on whether there was one."""
        rng, reported = np.random.default_rng(0), []
        windows = NoiseWindows()
        for _ in range(40):
            windows.add(2, 1, 10.0 + float(rng.standard_normal()), 4.0)
            resumed = NoiseWindows.from_dict(json.loads(json.dumps(windows.to_dict())))
            reported.append(windows.metrics())
            assert resumed.metrics() == reported[-1]
        ends = {told["noise_scale_low"] for told in reported}
        assert 3 < len(ends) < 30

    def test_noise_that_drowns_the_signal_leaves_a_lower_bound(self) -> None:
        windows = NoiseWindows()
        rng = np.random.default_rng(1)
        for _ in range(60):
            windows.add(2, 1, 10.0, 2.5 + 0.1 * float(rng.standard_normal()))
        windows.signal = -abs(windows.signal)
        told = windows.metrics()
        assert told["noise_scale"] is None
        assert told["noise_scale_low"] is not None
