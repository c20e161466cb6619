"""The gradient noise scale: how many samples a batch needs before noise and signal are equal.

``B_simple = tr(Sigma) / |G|^2`` (McCandlish et al. 2018, arXiv 1812.06162, section 2.2 and appendix
A), from the norms of gradients that a population computes anyway. Everything is float64 and
broadcasts over any shape, so a round of trials is one call.

Pitfalls that no formula sees: measure before clipping and L2, after the loss is unscaled; BatchNorm
couples samples; duplicates (augmented, packed) are not independent; too small an lr inflates the
value, and it grows during training. ``B_simple`` is a proxy for ``B_noise``, good to an order of
magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.errors import InvalidInput

Array = npt.NDArray[np.float64]
Values = npt.ArrayLike


@dataclass(frozen=True)
class Estimate:
    """Unbiased estimates of the two moments; either may be negative by chance and is never clipped.

    Attributes:
        sq_norm: ``|G|^2``, of the full gradient.
        trace: ``tr(Sigma)``, of one sample's gradient.
    """

    sq_norm: Array
    trace: Array

    @property
    def ratio(self) -> Array:
        """``B_simple``; biased by O(variance), meaningless where ``sq_norm`` is not positive."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.trace / self.sq_norm)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values; what is not finite is None."""
        return {"sq_norm": _json(self.sq_norm), "trace": _json(self.trace)}


def estimate(
    sum_sq_norms: Values,
    sq_norm_of_mean: Values,
    k: Values,
    b: Values,
    population: int | None = None,
) -> Estimate:
    """From the gradients of ``k`` micro-batches of ``b`` samples each.

    With ``S = sum |g_i - mean|^2 / (k - 1)``: ``tr(Sigma) = b S`` and ``|G|^2 = |mean|^2 - S / k``.

    >>> e = estimate(sum_sq_norms=8 * 5.0, sq_norm_of_mean=1.2, k=8, b=32)
    >>> round(float(e.sq_norm), 9), round(float(e.trace), 6), round(float(e.ratio), 6)
    (0.657142857, 138.971429, 211.478261)

    Args:
        sum_sq_norms: ``sum_i |g_i|^2``, where ``g_i`` is the mean gradient of micro-batch i.
        sq_norm_of_mean: ``|mean_i g_i|^2``, the squared norm of the accumulated gradient over k.
        k: Micro-batches in it; below 2 nothing can be known, and both estimates are NaN.
        b: Samples in each.
        population: Size of the training set where samples are drawn without replacement: the mean
            is then less noisy by ``(N - kb) / N``, and ``G`` is the gradient of this set.

    Returns:
        Estimates in float64, broadcast over all arguments.
    """
    total, mean_sq, slots, size = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (sum_sq_norms, sq_norm_of_mean, k, b))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.where(slots >= 2, (total - slots * mean_sq) / (slots - 1), np.nan)
        rest = 1.0 if population is None else np.maximum(0.0, 1 - slots * size / population)
        return Estimate(mean_sq - between / slots * rest, size * between)


def two_sizes(sq_norm_small: Values, small: Values, sq_norm_big: Values, big: Values) -> Estimate:
    """From squared norms at two batch sizes (McCandlish 2018, appendix A.2).

    Average ``sq_norm_small`` over *all* small batches of the big one (then it equals
    :func:`estimate`): with a single one the trace is useless, off by 221 % where 32 of them are off
    by 11 %.
    """
    s, b, big_s, big_b = (
        np.asarray(value, dtype=np.float64) for value in (sq_norm_small, small, sq_norm_big, big)
    )
    if np.any(b >= big_b):
        raise InvalidInput("small", "the small batch must be below the big one")
    return Estimate(
        np.asarray((big_b * big_s - b * s) / (big_b - b)),
        np.asarray((s - big_s) / (1 / b - 1 / big_b)),
    )


@dataclass(frozen=True)
class Jackknife:
    """An estimate from a few micro-batches, with errors that assume nothing of the gradients."""

    sq_norm: float
    sq_norm_error: float
    trace: float
    trace_error: float
    ratio: float
    ratio_error: float

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {name: _json(value) for name, value in asdict(self).items()}


def jackknife(gram: Values, b: int) -> Jackknife:
    """Leaves out each micro-batch in turn; also takes the first-order bias out of the ratio.

    Args:
        gram: ``[k, k]`` inner products of the k micro-batch gradients, k at least 3.
        b: Samples in each.
    """
    inner = np.asarray(gram, dtype=np.float64)
    k = inner.shape[0]
    if inner.shape != (k, k) or k < 3:
        raise InvalidInput("gram", f"shape {inner.shape} is not [k, k] with k at least 3")
    square = np.diagonal(inner)
    full = estimate(square.sum(), inner.sum() / k**2, k, b)
    left = estimate(
        square.sum() - square, (inner.sum() - 2 * inner.sum(1) + square) / (k - 1) ** 2, k - 1, b
    )

    def error(values: Array) -> float:
        return math.sqrt((k - 1) / k * float(np.sum((values - values.mean()) ** 2)))

    return Jackknife(
        float(full.sq_norm),
        error(left.sq_norm),
        float(full.trace),
        error(left.trace),
        float(k * full.ratio - (k - 1) * left.ratio.mean()),
        error(left.ratio),
    )


def relative_errors(
    noise_scale: float, samples: float, k: int, rho: float, effective_dimension: float
) -> tuple[float, float]:
    """Relative standard deviations of ``|G|^2`` and ``tr(Sigma)``, for Gaussian gradients.

    Args:
        noise_scale: ``B_simple``.
        samples: ``n = k b`` in all.
        k: Micro-batches.
        rho: ``G' Sigma G / (|G|^2 tr Sigma)``: the share of the noise that lies along the gradient.
        effective_dimension: ``(tr Sigma)^2 / tr(Sigma^2)``.
    """
    ratio = noise_scale / samples
    square = 4 * rho * ratio + 2 * ratio**2 / effective_dimension * k / (k - 1)
    return math.sqrt(square), math.sqrt(2 / ((k - 1) * effective_dimension))


def samples_needed(
    noise_scale: float, rho: float, effective_dimension: float, relative: float = 0.1
) -> tuple[int, int]:
    """Samples and micro-batches for a relative error of ``relative`` in both moments.

    At 10 %: about ``B_simple max(400 rho, 14 / sqrt(d_eff))`` samples in ``1 + 200 / d_eff``
    micro-batches.
    """
    r = relative**2
    root = math.sqrt((4 * rho) ** 2 + 8 * r / effective_dimension)
    k = max(2, math.ceil(1 + 2 / (r * effective_dimension)))
    return max(k, math.ceil(noise_scale * (4 * rho + root) / (2 * r))), k


@dataclass(frozen=True)
class NoiseScale:
    """What is known of one noise scale, in samples.

    Attributes:
        value: ``B_simple``, or None where it cannot be known.
        low: Lower end of the interval; None where even that cannot be known.
        high: Upper end; None where the measurements do not bound it.
        why: Why ``value`` or an end is None; empty otherwise.
        sq_norm: Mean ``|G|^2``.
        trace: Mean ``tr(Sigma)``.
        measurements: How many went in.
        level: Coverage of the interval.
    """

    value: float | None
    low: float | None
    high: float | None
    why: str
    sq_norm: float
    trace: float
    measurements: int
    level: float = 0.95

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float | None]) -> NoiseScale | None:
        """What a trial reported of its noise scale; None where it was never measured."""

        def positive(name: str) -> float | None:
            given = metrics.get(name)
            return given if given is not None and math.isfinite(given) and given > 0 else None

        value, low, high = (positive(f"noise_scale{end}") for end in ("", "_low", "_high"))
        if value is None and low is None:
            return None
        why = "noise drowns the gradient's own square" if value is None else ""
        if value is not None:
            # A moving average remembers more than the windows of the interval, and may lag them.
            low = None if low is None else min(low, value)
            high = None if high is None else max(high, value)
        return cls(value, low, high, why, math.nan, math.nan, 0)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            name: _json(value) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }

    def __str__(self) -> str:
        if self.value is None:
            bound = "" if self.low is None else f", at least {self.low:.4g} samples"
            return f"noise scale unknown{bound}: {self.why}"
        low, high = (f"{x:.4g}" if x is not None else "unbounded" for x in (self.low, self.high))
        return f"noise scale {self.value:.4g} samples ({self.level:.0%}: {low} to {high})"


def summarize(
    sq_norms: Values,
    traces: Values,
    *,
    seed: int = 0,
    draws: int = 1000,
    level: float = 0.95,
    block: int | None = None,
) -> NoiseScale:
    """One noise scale with its interval, from a series of estimates along a training run.

    Circular block bootstrap of the mean numerator and the mean denominator. The interval is taken
    on ``|G|^2 / tr(Sigma)``, which stays continuous where ``|G|^2`` passes zero: if the mean is not
    positive, only the lower bound is reported.

    Args:
        sq_norms: ``[T]`` estimates of ``|G|^2``, as measured, negative ones included.
        traces: ``[T]`` estimates of ``tr(Sigma)``.
        seed: Of the bootstrap.
        draws: Bootstrap replicates.
        level: Coverage.
        block: Steps that are resampled together; by default ``1.5 T^(1/3)``, for mild
            autocorrelation.
    """
    pair = np.stack([np.asarray(sq_norms, dtype=np.float64), np.asarray(traces, dtype=np.float64)])
    pair = pair[:, np.isfinite(pair).all(0)]
    count = pair.shape[1]

    def unknown(why: str, low: float | None = None) -> NoiseScale:
        mean = pair.mean(1) if count else np.full(2, np.nan)
        return NoiseScale(None, low, None, why, float(mean[0]), float(mean[1]), count, level)

    if count < 8:
        return unknown(f"{count} measurements: it needs 8, each of at least 2 micro-batches a step")
    sq_norm, trace = (float(value) for value in pair.mean(1))
    if not trace > 0:
        return unknown(
            "the gradients of the micro-batches do not differ: there is no noise to scale"
        )
    length = min(count, block or max(1, round(1.5 * count ** (1 / 3))))
    means = _resampled(pair, length, draws, np.random.default_rng(seed))
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = means[0] / means[1]
    tail = (1 - level) / 2
    least, most = (float(value) for value in np.quantile(inverse, [tail, 1 - tail]))
    low = 1 / most if most > 0 else None
    if not sq_norm > 0:
        return unknown(
            "the signal |G|^2 is below what its own noise hides: use more samples a step",
            low,
        )
    high = 1 / least if least > 0 else None
    why = "" if high is not None else "the signal is too weak to bound it from above"
    return NoiseScale(trace / sq_norm, low, high, why, sq_norm, trace, count, level)


def _resampled(series: Array, length: int, draws: int, rng: np.random.Generator) -> Array:
    """``[..., draws]`` means of circular blocks that together are as long as ``series [..., T]``.

    From sums of blocks, so that a draw costs as many additions as it has blocks. Whole blocks are a
    little longer than the series, and so their mean a little too quiet: that is put right.
    """
    count = series.shape[-1]
    blocks = -(-count // length)
    around = np.concatenate([np.zeros_like(series[..., :1]), series, series[..., :length]], axis=-1)
    total = np.cumsum(around, axis=-1)
    sums = total[..., length : length + count] - total[..., :count]
    chosen = rng.integers(0, count, (draws, blocks))
    mean = series.mean(-1)[..., None]
    drawn = sums[..., chosen].sum(-1) / (blocks * length)
    return np.asarray(mean + (drawn - mean) * math.sqrt(blocks * length / count))


def _json(value: Any) -> Any:
    array = np.asarray(value, dtype=np.float64)
    clean = np.where(np.isfinite(array), array, np.nan).tolist()
    if isinstance(clean, float):
        return None if math.isnan(clean) else clean
    return [_json(item) for item in clean]
