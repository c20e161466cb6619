"""The learning-rate range test, its second half: from loss curves to a search range.

Smith 2015 (arXiv 1506.01186): raise the lr exponentially over one short run and look where the loss
drops for good and where it diverges. The runs are a population's, one seed a slot; here are only
the curves.

Everything is judged against log lr. Differentiating against lr itself, as a common implementation
does, divides by steps that grow a hundred-millionfold along the run, so noise at the smallest rates
wins. Smoothing is centred: an exponential average of 0.98 over 100 points shifts every answer to
the right about fourfold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.advisor.families import FamilyName, traits
from tuner.errors import InvalidInput

Array = npt.NDArray[np.float64]

FALLBACK: dict[str, tuple[float, float]] = {
    "sgd": (1e-3, 1.0),
    "adam": (1e-5, 1e-2),
    "rmsprop": (1e-5, 1e-2),
    "sign": (1e-6, 1e-2 / 3),
    "adagrad": (1e-3, 1e-1),
    "parameter-free": (1 / 3, 3.0),
}
"""Search ranges by family where a test finds none. Sign-like: a tenth to a third of Adam's."""

MARGIN = 3.0
"""The range is [drop / 3, divergence / 3]."""

WORSE = 4.0
"""Diverged: not finite, or above this times the best loss so far."""

LEAST_DROP = 6.0
"""Standard errors of the whole drop: the lowest of many noisy points lies four below, by itself."""

LEAST_STEPS = 30
LOWEST, HIGHEST, STEPS, SEEDS = 1e-7, 10.0, 200, 3

POWERS: dict[FamilyName, float] = {"sgd": 1.0, "adagrad": 0.0, "parameter-free": 0.0}
"""Of the batch size, with which the ends of a range move; 1/2 for every other family."""


@dataclass(frozen=True)
class RangeTest:
    """A search range for the learning rate.

    Attributes:
        low: Least rate worth searching.
        high: Greatest.
        suggestion: Where the loss falls fastest per log lr; None where it never falls.
        drop: The rate from which on the loss stays significantly lower than at the start.
        divergence: The first rate at which any seed diverged for good; None if none did.
        reasons: How each end came about, one sentence each.
        measured: Whether both ends are the test's own, none from the family's fallback.
        seeds: Curves that went in.
        lr: Rates of the smoothed curve, for a picture.
        loss: Its losses, averaged over seeds; NaN after the first divergence.
    """

    low: float
    high: float
    suggestion: float | None
    drop: float | None
    divergence: float | None
    reasons: tuple[str, ...]
    measured: bool
    seeds: int
    lr: tuple[float, ...]
    loss: tuple[float, ...]

    @property
    def useful(self) -> tuple[float, float]:
        """The rates of the drop and of the lowest loss, each moved as its end of the range was."""
        end = math.inf if self.divergence is None else self.divergence
        known = [
            (loss, lr)
            for lr, loss in zip(self.lr, self.loss, strict=True)
            if lr < end and math.isfinite(loss)
        ]
        drop = self.low * MARGIN
        if not known:
            return drop, self.high
        top = self.lr[-1] if self.divergence is None else self.divergence
        return drop, min(known)[1] * self.high * MARGIN / top

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "low": self.low,
            "high": self.high,
            "suggestion": self.suggestion,
            "drop": self.drop,
            "divergence": self.divergence,
            "reasons": list(self.reasons),
            "measured": self.measured,
            "seeds": self.seeds,
            "lr": list(self.lr),
            "loss": [value if math.isfinite(value) else None for value in self.loss],
        }

    def to_space(self) -> dict[str, Any]:
        """The range as a parameter of a study's search space."""
        return {"type": "float", "low": self.low, "high": self.high, "log": True}

    def across(
        self, batch_size: float, smallest: float, largest: float, optimizer: str
    ) -> RangeTest:
        """The range for other batch sizes too: each end moves by the rule of the optimizer.

        Args:
            batch_size: That of the test.
            smallest: The least that will be trained with; the low end falls to it.
            largest: The greatest; the high end rises to it.
            optimizer: Registry name.
        """
        power = POWERS.get(traits(optimizer).family, 0.5)
        down = min(1.0, smallest / batch_size) ** power
        up = max(1.0, largest / batch_size) ** power
        if down == up == 1:
            return self
        rule = "linear" if power == 1 else "square-root"
        why = (
            f"tested at batch size {batch_size:g}; by the {rule} rule the ends reach from batch "
            f"size {smallest:g} to {largest:g}"
        )
        return replace(self, low=self.low * down, high=self.high * up, reasons=(*self.reasons, why))

    def __str__(self) -> str:
        head = f"search lr from {self.low:.3g} to {self.high:.3g}"
        if self.suggestion is not None:
            head += f"; steepest at {self.suggestion:.3g}"
        return "\n  ".join([head, *self.reasons])


def rates(low: float = LOWEST, high: float = HIGHEST, steps: int = STEPS) -> Array:
    """The lr of each step of the test: exponential from ``low`` to ``high``."""
    if not 0 < low < high:
        raise InvalidInput("low", f"{low!r} must be positive and below {high!r}")
    if steps < LEAST_STEPS:
        raise InvalidInput("steps", f"{steps!r} is below {LEAST_STEPS}")
    return np.geomspace(low, high, steps)


def analyse(lr: npt.ArrayLike, losses: npt.ArrayLike, optimizer: str = "adam") -> RangeTest:
    """From the curves of several seeds to a search range.

    Args:
        lr: ``[T]`` rates, rising by a constant factor.
        losses: ``[seeds, T]`` training loss of each step; NaN or infinite from where a seed
            diverged.
        optimizer: Registry name, for the fallback.

    Raises:
        InvalidInput: Shapes do not fit, or the rates do not rise.
    """
    eta = np.asarray(lr, dtype=np.float64)
    raw = np.atleast_2d(np.asarray(losses, dtype=np.float64))
    if eta.ndim != 1 or eta.size < LEAST_STEPS or raw.shape[1:] != eta.shape:
        raise InvalidInput(
            "losses",
            f"shapes {eta.shape} and {raw.shape} are not [T], [seeds, T], T >= {LEAST_STEPS}",
        )
    if not ((eta > 0).all() and (np.diff(eta) > 0).all()):
        raise InvalidInput("lr", "the rates must be positive and rise")
    curve = _Curves(eta, raw)
    drop, divergence = curve.drop(), curve.divergence()
    default = FALLBACK[traits(optimizer).family]
    reasons: list[str] = []
    if divergence is not None and curve.sound().size <= curve.start:
        high = default[1]
        reasons.append(
            f"a seed diverged at {divergence:.3g}, among the first rates already: look for numbers "
            "that are not finite in the data, the model or the loss, or start at lower rates"
        )
    elif divergence is not None:
        high = divergence / MARGIN
        reasons.append(f"a seed diverged at {divergence:.3g}; the range ends at a third of it")
    elif drop is not None:
        high = float(eta[-1]) / MARGIN
        reasons.append(f"nothing diverged up to {eta[-1]:.3g}; the range ends at a third of that")
    else:
        high = default[1]
    if drop is not None:
        low = drop / MARGIN
        reasons.append(f"the loss drops for good at {drop:.3g}; the range starts at a third of it")
    else:
        low = min(default[0], high / 100)
        reasons.append(
            "the loss never drops significantly: the ends come from the optimizer's family"
        )
    measured = drop is not None
    if low >= high:
        low = high / 10
        reasons.append(
            "the loss drops and diverges at nearly the same rate: the range is the decade below"
        )
    suggestion = None if drop is None else curve.steepest(drop)
    mean = curve.mean()
    return RangeTest(
        low,
        high,
        suggestion,
        drop,
        divergence,
        tuple(reasons),
        measured,
        raw.shape[0],
        tuple(eta.tolist()),
        tuple(mean.tolist()),
    )


class _Curves:
    """Loss curves on a log lr axis, each cut where its seed diverged, smoothed about each point."""

    def __init__(self, lr: Array, raw: Array) -> None:
        self.lr = lr
        self.width = max(1.5, lr.size / 66)  # 3 of 200 steps: an eighth of a decade from 1e-7 to 10
        alive = np.isfinite(raw).cumprod(axis=1).astype(bool)
        self.ends = alive.sum(1)
        self.smooth = np.full(raw.shape, np.nan)
        noise = []
        for row, values, end in zip(self.smooth, raw, self.ends, strict=True):
            if end == 0:
                continue
            row[:end] = _smooth(values[:end], self.width)
            rough = np.diff(values[: max(3, end // 2)])
            noise.append(np.median(np.abs(rough)) * 1.4826 / math.sqrt(2))
        self.start = max(5, lr.size // 10)
        spread = float(np.mean(noise)) if noise else 0.0
        independent = 2 * math.sqrt(math.pi) * self.width * raw.shape[0]
        self.error = spread / math.sqrt(independent)
        lead = self.smooth[:, : self.start]
        lead = lead[np.isfinite(lead)]
        self.baseline = float(lead.mean()) if lead.size else math.nan
        self.error_of_one = self.error * math.sqrt(raw.shape[0])

    def mean(self) -> Array:
        """Average over seeds up to the first divergence, NaN after it."""
        out = np.full(self.lr.size, np.nan)
        end = int(self.ends.min())
        out[:end] = self.smooth[:, :end].mean(0)
        return out

    def drop(self) -> float | None:
        """The rate from which on the loss stays below where it started, until it is half-way down.

        Below by three standard errors and 2 % of the whole drop. Noise dips below that too, and for
        several points at once, since smoothed neighbours share their noise; but it comes back up,
        and only a drop that lasts counts. So the last rate that is not below decides, not the first
        that is.
        """
        known, error = self.sound(), self._error()
        if known.size <= self.start:
            return None
        whole = self.baseline - float(known.min())
        if whole <= LEAST_DROP * error or whole <= 0:
            return None
        half = self._reached(max(whole / 2, LEAST_DROP * error))
        above = known[:half] >= self.baseline - max(3 * error, 0.02 * whole)
        return float(self.lr[np.flatnonzero(above)[-1] + 1 if above.any() else 0])

    def sound(self) -> Array:
        """The mean curve up to where the first seed diverges."""
        mean = self.mean()[: self._ruin()]
        return mean[np.isfinite(mean)]

    def divergence(self) -> float | None:
        """The first rate at which any seed is not finite, or for good far above its best loss.

        Far: four times the best, or back above where it started, which for a loss that begins below
        four times its best is how a ruined run looks. For good: a run with BatchNorm may rise above
        its start and fall again, as its weights grow and shorten its steps by themselves; while a
        run still comes back to half its fall, it is not ruined.
        """
        first = self._ruin()
        return None if first == self.lr.size else float(self.lr[first])

    def steepest(self, drop: float) -> float:
        """The rate of the fastest fall per log lr, between the drop and most of the fall."""
        known = self.sound()
        start = int(np.searchsorted(self.lr, drop))
        last = self._reached(0.8 * (self.baseline - float(known.min())))
        slope = np.gradient(known, np.log(self.lr[: known.size]))
        return float(self.lr[start + int(np.argmin(slope[start : max(last, start) + 1]))])

    def _error(self) -> float:
        """Of one smoothed point of the mean below the baseline."""
        return math.sqrt(self.error**2 * (1 + 2 * self.width / self.start))

    def _reached(self, fall: float) -> int:
        """Where the loss is first this far below where it started."""
        return int(np.argmax(self.sound() <= self.baseline - fall))

    def _ruin(self) -> int:
        first = self.lr.size
        for row, end in zip(self.smooth, self.ends, strict=True):
            first = min(first, int(end))
            if end < 2:
                continue
            best = float(row[:end].min())
            bar = WORSE * best if best > 0 else math.inf
            trained = row[:end] <= best
            if self.baseline - best > 6 * self.error_of_one:
                margin = max(6 * self.error_of_one, 0.05 * (self.baseline - best))
                bar = min(bar, self.baseline + margin)
                trained = row[:end] < (self.baseline + best) / 2
            last = int(np.flatnonzero(trained)[-1])
            over = np.flatnonzero(row[last:end] > bar)
            if over.size:
                first = min(first, last + int(over[0]))
        return first


def _smooth(values: Array, width: float) -> Array:
    """Gaussian average about each point; at the ends over what is there."""
    reach = math.ceil(4 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    total = np.convolve(values, kernel)[reach : reach + values.size]
    weight = np.convolve(np.ones_like(values), kernel)[reach : reach + values.size]
    return np.asarray(total / weight)
