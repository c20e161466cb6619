"""The fitted lr*(B): what it says at a batch size, how sure it is, and how it travels as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.advisor import forms
from tuner.advisor.curves import BatchOptimum
from tuner.advisor.rules import Fixed
from tuner.errors import InvalidInput

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A number with its interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """The same as JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Prediction:
    """The best lr at a batch size.

    Attributes:
        batch_size: Asked for.
        lr: Predicted, with its interval.
        octave_error: Standard deviation of log2(lr).
        regret: Loss expected to be lost by that error; None without a curvature.
        beyond: How far outside the fitted batch sizes, as a factor; 1 inside.
    """

    batch_size: int
    lr: Interval
    octave_error: float
    regret: float | None
    beyond: float

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "batch_size": self.batch_size,
            "lr": self.lr.to_dict(),
            "octave_error": self.octave_error,
            "regret": self.regret,
            "beyond": self.beyond,
        }


@dataclass(frozen=True)
class Fit:
    """lr*(B) with its evidence.

    Attributes:
        identified: Whether the exponent can be told at all.
        why: Why not; empty when identified.
        form: The form that foretold held-out batch sizes best; empty when not identified.
        exponent: ``s`` of lr* = c B^s with its interval; None when not identified.
        excluded: Which of 0, 1/2, 1 the interval excludes: keep, sqrt, linear.
        optima: What each batch size says, smallest first.
        held_out: Root mean square octaves by which each form, and each rule from the nearest batch
            size, missed the batch sizes it had not seen.
        held_out_regret: The same as loss lost (curvature times squared octaves), mean.
        trials: ``lr`` and ``batch_size`` of trials that would identify or sharpen the fit.
        observations: How many went in.
        level: Coverage of the intervals.
        curve: What it says at some batch sizes, from half the least to four times the greatest.
        facts: What all trials have in common, such as the optimizer.
        fixed: What trials of different batch sizes have the same number of; None: they do not say.
    """

    identified: bool
    why: str
    form: str
    exponent: Interval | None
    excluded: tuple[float, ...]
    optima: tuple[BatchOptimum, ...]
    held_out: dict[str, float]
    held_out_regret: dict[str, float]
    trials: tuple[dict[str, float], ...]
    observations: int
    level: float
    curve: tuple[Prediction, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    fixed: Fixed | None = None
    _curves: tuple[tuple[forms.Curves, Array], ...] = field(repr=False, compare=False, default=())

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Fit:
        """The inverse of :meth:`to_dict`, but for :meth:`predict`: JSON holds no replicates."""
        exponent = given["exponent"]
        parts = {
            "exponent": None if exponent is None else Interval(**exponent),
            "excluded": tuple(given["excluded"]),
            "optima": tuple(BatchOptimum(**one) for one in given["optima"]),
            "trials": tuple(given["trials"]),
            "curve": tuple(
                Prediction(**{**one, "lr": Interval(**one["lr"])}) for one in given["curve"]
            ),
        }
        return cls(**{**given, **parts})

    def drawn(self) -> Fit:
        """The same with its curve."""
        if not self._curves:
            return self
        sizes = [o.batch_size for o in self.interior]
        grid = np.unique(np.round(np.geomspace(min(sizes) / 2, max(sizes) * 4, 25)).astype(int))
        curve = tuple(self.predict(int(size)) for size in grid if size >= 1)
        return replace(self, curve=curve)

    @property
    def interior(self) -> tuple[BatchOptimum, ...]:
        """The batch sizes whose optimum lies between trials."""
        return tuple(optimum for optimum in self.optima if optimum.kind == "interior")

    @property
    def curvature(self) -> float | None:
        """Median loss per squared octave away from the optimum."""
        bends = [o.curvature for o in self.interior if o.curvature is not None]
        return float(np.median(bends)) if bends else None

    def predict(self, batch_size: int) -> Prediction:
        """The best lr at one batch size.

        Raises:
            InvalidInput: The fit is not identified; the message says what is missing.
        """
        if not self.identified:
            raise InvalidInput("studies", f"lr*(B) is not identified: {self.why}")
        if not self._curves:
            raise InvalidInput("studies", "a fit that came as JSON tells only its curve")
        x = np.array([math.log2(batch_size)])
        # Every form that foretold nearly as well as the best may be the true one: their replicates
        # are pooled, or intervals would be as narrow as the choice is arbitrary.
        each = [(curves(x)[:, 0], scatter) for curves, scatter in self._curves]
        at = each[0][0]
        spread = np.concatenate([values[1:] + scatter for values, scatter in each])
        tail = (1 - self.level) / 2
        low, high = (float(value) for value in np.quantile(spread, [tail, 1 - tail]))
        value = float(at[0])
        error = float(np.std(spread))
        sizes = [o.batch_size for o in self.interior]
        beyond = max(1.0, batch_size / max(sizes), min(sizes) / batch_size)
        bend = self.curvature
        return Prediction(
            batch_size,
            Interval(_power(value), _power(min(low, value)), _power(max(high, value))),
            error,
            None if bend is None else bend * error**2,
            beyond,
        )

    def regret(self, lr: float, batch_size: int) -> float | None:
        """Loss expected of ``lr`` above that of the predicted best one at this batch size."""
        bend = self.curvature
        if bend is None:
            return None
        return bend * math.log2(lr / self.predict(batch_size).lr.value) ** 2

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "identified": self.identified,
            "why": self.why,
            "form": self.form,
            "exponent": None if self.exponent is None else self.exponent.to_dict(),
            "excluded": list(self.excluded),
            "optima": [vars(optimum) for optimum in self.optima],
            "held_out": dict(self.held_out),
            "held_out_regret": dict(self.held_out_regret),
            "trials": [dict(trial) for trial in self.trials],
            "observations": self.observations,
            "level": self.level,
            "curve": [point.to_dict() for point in self.curve],
            "facts": dict(self.facts),
            "fixed": self.fixed,
        }

    def __str__(self) -> str:
        if self.exponent is None:
            return f"lr*(B) is not identified: {self.why}"
        names = {0.0: "keep", 0.5: "sqrt", 1.0: "linear"}
        out = (
            ", ".join(f"{names[value]} ({value:g})" for value in self.excluded)
            or "none of the rules"
        )
        missed = ", ".join(f"{name} {error:.2f}" for name, error in self.held_out.items())
        return (
            f"lr* = c B^s with s = {self.exponent.value:.3f} ({self.exponent.low:.3f} to "
            f"{self.exponent.high:.3f}), excludes {out}; form {self.form}; missed held-out batch "
            f"sizes by (octaves): {missed}"
        )

    def _repr_markdown_(self) -> str:
        rows = [
            f"| {o.batch_size} | {'' if o.lr is None else format(o.lr, '.4g')} | {o.why or o.kind} "
            "|"
            for o in self.optima
        ]
        return "\n".join([str(self), "", "| batch size | best lr | |", "|-|-|-|", *rows])


def _power(octaves: float) -> float:
    """Two to it, for any extrapolation still a number."""
    return float(2.0 ** min(max(octaves, -1000.0), 1000.0))
