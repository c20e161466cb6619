"""The critical batch size: where more samples a step stop saving steps.

McCandlish et al. 2018 (arXiv 1812.06162), section 2.3: ``S = S_min (1 + B_crit / B)`` steps and
``E = B S = E_min + S_min B`` samples reach a target, with ``B_crit = E_min / S_min``. Zhang et al.
2024 (2410.21676) call critical what costs 20 % more steps than linear speed-up; on this curve, 0.2
B_crit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from tuner.advisor import forms
from tuner.errors import InvalidInput

LEAST_POINTS = 4
HUBER = 1.345


def steps_to_target(batch_size: float, steps_min: float, critical: float) -> float:
    """Steps to a target at a batch size.

    >>> steps_to_target(64, 1000, 256)
    5000.0
    """
    return steps_min * (1 + critical / batch_size)


def samples_to_target(batch_size: float, steps_min: float, critical: float) -> float:
    """Samples to the same target.

    >>> samples_to_target(256, 1000, 256)
    512000.0
    """
    return batch_size * steps_to_target(batch_size, steps_min, critical)


def reached(curve: Mapping[int, float], target: float) -> float | None:
    """The step at which a curve first comes down to ``target``, between its points.

    None where it never does, or had done so before it was first measured: then the step is unknown.
    """
    before: tuple[int, float] | None = None
    for step, loss in sorted(curve.items()):
        if loss <= target:
            if before is None:
                return None
            earlier, higher = before
            return earlier + (step - earlier) * (higher - target) / (higher - loss)
        before = (step, loss)
    return None


@dataclass(frozen=True)
class CriticalBatch:
    """A fitted trade of steps for samples.

    Attributes:
        value: ``B_crit`` in samples.
        low: Lower end of its interval.
        high: Upper end.
        steps_min: Steps that no batch size can save.
        samples_min: Samples that no batch size can save.
        identified: Whether the batch sizes straddle it; if not, the value is an extrapolation.
        why: Why not; empty when identified.
        level: Coverage of the interval.
    """

    value: float
    low: float
    high: float
    steps_min: float
    samples_min: float
    identified: bool
    why: str
    level: float

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> CriticalBatch:
        """The inverse of :meth:`to_dict`."""
        return cls(**{name: value for name, value in given.items() if name != "twenty_percent"})

    @property
    def twenty_percent(self) -> float:
        """The batch size that costs 20 % more samples than the least."""
        return 0.2 * self.value

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self) | {"twenty_percent": self.twenty_percent}

    def __str__(self) -> str:
        text = f"critical batch size {self.value:.4g} ({self.low:.4g} to {self.high:.4g})"
        return text if self.identified else f"{text}, extrapolated: {self.why}"


def fit_critical_batch(
    batch_sizes: Sequence[float],
    steps: Sequence[float],
    *,
    seed: int = 0,
    draws: int = 500,
    level: float = 0.95,
) -> CriticalBatch:
    """Fits ``log S`` robustly to steps-to-target at several batch sizes (repeats allowed).

    Args:
        batch_sizes: Of each run.
        steps: Steps that it took to reach the same target.
        seed: Of the residual bootstrap.
        draws: Bootstrap replicates.
        level: Coverage.

    Raises:
        InvalidInput: Fewer than 4 runs at 3 batch sizes, or a number that is not positive.
    """
    b, s = np.asarray(batch_sizes, dtype=np.float64), np.asarray(steps, dtype=np.float64)
    if b.shape != s.shape or b.size < LEAST_POINTS or np.unique(b).size < 3:
        raise InvalidInput("steps", f"it takes {LEAST_POINTS} runs at 3 batch sizes or more")
    if not (np.isfinite(b) & np.isfinite(s) & (b > 0) & (s > 0)).all():
        raise InvalidInput("steps", "steps and batch sizes must be positive numbers")
    x, y, none = np.log2(b), np.log2(s), np.empty(0)
    weight = np.ones(b.size)
    for turn in range(4):  # Huber weights by reweighting; the last fit is the one kept
        points = forms.Points(x, y[None], weight, none, none, none)
        curve = forms.solve("saturating", points, alpha=-1.0)
        residual = y - curve(x)[0]
        scale = 1.4826 * float(np.median(np.abs(residual))) * math.sqrt(b.size / (b.size - 2))
        if turn < 3 and scale > 0:
            weight = np.minimum(1.0, HUBER * scale / np.maximum(np.abs(residual), 1e-300))
    fitted = curve(x)[0]
    tail = (1 - level) / 2
    # Residuals understate the noise by sqrt(n / (n - p)), and with few runs a normal quantile is
    # too short by t / z: with ten runs coverage was 88 % without the second factor.
    inflation = math.sqrt(b.size / (b.size - 2))
    inflation *= float(stdtrit(b.size - 2, 1 - tail) / ndtri(1 - tail))
    kept = np.clip(residual, -3 * scale, 3 * scale) * inflation
    rng = np.random.default_rng(seed)
    again = fitted + rng.choice(kept, (draws, b.size))
    replicates = forms.solve("saturating", forms.Points(x, again, weight, *(none,) * 3), -1.0)
    low, high = np.quantile(replicates.parameters[:, 1], [tail, 1 - tail])
    level_log, value_log = (float(v) for v in curve.parameters[0])
    value, steps_min = 2.0**value_log, 2.0**level_log
    why = ""
    if not b.min() <= value <= b.max():
        side = "below" if value < b.min() else "above"
        why = f"it lies {side} every batch size tried; runs there would pin it down"
    return CriticalBatch(
        value,
        min(value, float(2.0**low)),
        max(value, float(2.0**high)),
        steps_min,
        steps_min * value,
        not why,
        why,
        level,
    )
