"""The gradient noise scale of one trial, from what gradient accumulation passes by anyway.

The estimator is :func:`tuner.advisor.noise_scale.estimate`. Here its moving averages are kept for a
trial, in plain numbers that a checkpoint can hold. Gradients are measured before clipping and
without L2 terms.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.advisor.noise_scale import estimate, summarize

DECAY = 0.99
"""Of the moving averages, per window. Their identical bias corrections cancel in the ratio."""
KEPT = 256
"""Windows kept for the advisor's bootstrap."""
DRAWS = 200
"""Replicates of the interval: a quarter of a millisecond, as long as ten steps of a small model."""
NEWS = 1.125
"""The interval is found anew when so many times as many batches have been measured."""


@dataclass
class NoiseWindows:
    """The measurements of one trial, newest last.

    Args:
        windows: (tr(Sigma), |G|^2) of each measured batch; either may be negative.
        trace: Moving average of tr(Sigma).
        signal: Moving average of |G|^2.
        count: Batches measured.
        low: Lower end of the interval, when it was last found.
        high: Upper end.
        found_at: Batches measured then.
    """

    windows: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT))
    trace: float = 0.0
    signal: float = 0.0
    count: int = 0
    low: float | None = None
    high: float | None = None
    found_at: int = 0

    def add(
        self,
        parts: int,
        part_size: float,
        parts_sq: float,
        mean_sq: float,
        population: int | None = None,
    ) -> None:
        """Takes in one batch.

        Args:
            parts: Micro-batches k, at least 2.
            part_size: Samples in each, b.
            parts_sq: Sum of |g_i|^2.
            mean_sq: |g|^2 of their mean.
            population: Samples in an epoch, which are drawn without replacement.
        """
        found = estimate(parts_sq, mean_sq, parts, part_size, population)
        trace, signal = float(found.trace), float(found.sq_norm)
        if not (math.isfinite(trace) and math.isfinite(signal)):
            return
        self.windows.append((trace, signal))
        self.count += 1
        rate = max(1 - DECAY, 1 / self.count)
        self.trace += rate * (trace - self.trace)
        self.signal += rate * (signal - self.signal)

    @property
    def scale(self) -> float | None:
        """tr(Sigma) / |G|^2, or None while noise drowns the gradient's own square."""
        if self.count == 0 or self.signal <= 0:
            return None
        return self.trace / self.signal

    def metrics(self) -> dict[str, float | None]:
        """What to report: the scale, and the ends of its 95 % interval where they are known.

        Without a scale but with a lower end, noise drowns the signal; with neither, too little was
        measured.
        """
        if self.count > NEWS * self.found_at:
            traces, signals = zip(*self.windows, strict=True)
            known = summarize(signals, traces, draws=DRAWS)
            self.low, self.high, self.found_at = known.low, known.high, self.count
        return {
            "noise_scale": self.scale,
            "noise_scale_low": self.low,
            "noise_scale_high": self.high,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "windows": list(map(list, self.windows))}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> NoiseWindows:
        """The inverse of :meth:`to_dict`."""
        windows = deque(((a, b) for a, b in known["windows"]), maxlen=KEPT)
        return cls(**{**known, "windows": windows})
