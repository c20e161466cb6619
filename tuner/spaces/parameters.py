"""The parameters a space is made of, each a frozen value that knows its own unit interval.

A parameter maps its legal values onto [0, 1] (logs taken, discrete values at the centres of equal
cells), so that samplers and models need one kind of geometry only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]
Scalar = bool | int | float | str | None
"""Any JSON scalar."""

Condition = Mapping[str, tuple[Scalar, ...]]
"""Name of a parent to the values of it under which the child is active; all parents must agree."""


@dataclass(frozen=True)
class Prior:
    """Where good values are expected: a normal on ``scale``, cut to the parameter's range.

    Args:
        center: The likeliest value, in the parameter's own unit.
        spread: One standard deviation: decades for ``log`` and ``complement``, else a share of
            the range.
        scale: ``log`` of the value or of its ``complement`` (1 - value, for decay rates), or
            ``linear``.
    """

    center: float
    spread: float
    scale: Literal["linear", "log", "complement"] = "linear"

    def axis(self, value: Floats, low: float, high: float) -> Floats:
        """``value`` on the prior's scale, where one unit is what ``spread`` counts in."""
        if self.scale == "log":
            return np.log10(np.maximum(value, 1e-300))
        if self.scale == "complement":
            return np.log10(np.maximum(1.0 - value, 1e-16))
        return (value - low) / (high - low) if high > low else np.full_like(value, 0.5)

    def value(self, axis: Floats, low: float, high: float) -> Floats:
        """The inverse of :meth:`axis`."""
        if self.scale == "log":
            return np.power(10.0, axis)
        if self.scale == "complement":
            return 1.0 - np.power(10.0, axis)
        return low + axis * (high - low)

    def draw(self, u: Floats, low: float, high: float) -> Floats:
        """The ``u``-quantiles of the normal cut to [low, high]; ``u`` lies in (0, 1)."""
        a, b = np.sort(self.axis(np.array([low, high]), low, high))
        middle = self.axis(np.array([self.center]), low, high)[0]
        a, b = (a - middle) / self.spread, (b - middle) / self.spread
        if a > 0:  # the upper tail, mirrored: ndtr keeps its precision below zero only
            z = -ndtri(ndtr(-a) + u * (ndtr(-b) - ndtr(-a)))
        else:
            z = ndtri(ndtr(a) + u * (ndtr(b) - ndtr(a)))
        nearest = a if abs(a) < abs(b) else b  # so far out that no digit is left
        z = np.clip(np.where(np.isfinite(z), z, nearest), a, b)
        return np.clip(self.value(middle + z * self.spread, low, high), low, high)


@dataclass(frozen=True)
class Float:
    """A real number in [low, high], both included.

    Args:
        log: Uniform in the logarithm.
        step: Only ``low + i * step``; never together with ``log``.
        prior: Where good values are expected; ``"none"`` switches the optimizer's own off.
        when: The condition under which the parameter is active; empty: always.
        default: What trials are read as having that ran before the space was widened.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    prior: Prior | Literal["none"] | None = None
    when: Condition = field(default_factory=dict)
    default: float | None = None

    @property
    def size(self) -> int | None:
        """How many values there are; None: a continuum."""
        if self.low == self.high:
            return 1
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            return False
        if not self.low <= value <= self.high:  # before it is made a float, which holds not all
            return False
        if self.step is None:
            return True
        cells = (float(value) - self.low) / self.step
        return abs(cells - round(cells)) < 1e-6

    def at(self, index: int) -> float:
        """The ``index``-th value of a stepped range, exactly as every other caller gets it."""
        step = self.step or 0.0
        return min(self.low + index * step, self.high)

    def to_unit(self, value: Scalar) -> float:
        """Where ``value`` stands in [0, 1]."""
        if self.low == self.high:
            return 0.5
        v = float(value)  # type: ignore[arg-type]  # numbers only reach here
        if self.step is not None:
            return (round((v - self.low) / self.step) + 0.5) / (self.size or 1)
        if self.log:
            return (math.log(v) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (v - self.low) / (self.high - self.low)

    def from_unit(self, u: float) -> float:
        """The value at ``u`` in [0, 1]."""
        if self.low == self.high:
            return self.low
        if self.step is not None:
            size = self.size or 1
            return self.at(min(max(int(u * size), 0), size - 1))
        if self.log:
            v = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            v = self.low + u * (self.high - self.low)
        return min(max(v, self.low), self.high)

    def nearest(self, value: float) -> float:
        """The legal value nearest to ``value``."""
        v = min(max(value, self.low), self.high)
        return v if self.step is None else self.at(round((v - self.low) / self.step))


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high], both included; the arguments are those of :class:`Float`."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    prior: Prior | Literal["none"] | None = None
    when: Condition = field(default_factory=dict)
    default: int | None = None

    @property
    def size(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            return False
        v = int(value)
        return self.low <= v <= self.high and (v - self.low) % self.step == 0

    def at(self, index: int) -> int:
        """The ``index``-th value."""
        return self.low + index * self.step

    def _ends(self) -> tuple[float, float]:
        return math.log(self.low - 0.5), math.log(self.high + 0.5)

    def to_unit(self, value: Scalar) -> float:
        """Where ``value`` stands in [0, 1]: the centre of its cell."""
        v = int(value)  # type: ignore[arg-type]  # numbers only reach here
        if not self.log:
            return ((v - self.low) // self.step + 0.5) / self.size
        low, high = self._ends()
        return (math.log(v) - low) / (high - low)

    def from_unit(self, u: float) -> int:
        """The value whose cell holds ``u``."""
        if not self.log:
            return self.at(min(max(int(u * self.size), 0), self.size - 1))
        low, high = self._ends()
        return min(max(round(math.exp(low + u * (high - low))), self.low), self.high)

    def nearest(self, value: float) -> int:
        """The legal value nearest to ``value``."""
        return self.at(min(max(round((value - self.low) / self.step), 0), self.size - 1))


@dataclass(frozen=True)
class Categorical:
    """One of ``choices``, any JSON scalars, without order."""

    choices: tuple[Scalar, ...]
    when: Condition = field(default_factory=dict)
    default: Scalar = None

    @property
    def size(self) -> int:
        """How many choices there are."""
        return len(self.choices)

    def index(self, value: object) -> int:
        """Where ``value`` stands among the choices; -1: nowhere. True is not 1."""
        for i, choice in enumerate(self.choices):
            if choice == value and isinstance(choice, bool) == isinstance(value, bool | np.bool_):
                return i
        return -1

    def __contains__(self, value: object) -> bool:
        return self.index(value) >= 0

    def at(self, index: int) -> Scalar:
        """The ``index``-th choice."""
        return self.choices[index]

    def to_unit(self, value: Scalar) -> float:
        """The centre of the cell of ``value``."""
        return (self.index(value) + 0.5) / self.size

    def from_unit(self, u: float) -> Scalar:
        """The choice whose cell holds ``u``."""
        return self.choices[min(max(int(u * self.size), 0), self.size - 1)]


@dataclass(frozen=True)
class Constant:
    """One value for every trial in which it is active; never searched."""

    value: Scalar
    when: Condition = field(default_factory=dict)

    def __contains__(self, value: object) -> bool:
        return Categorical((self.value,)).index(value) == 0


Parameter = Float | Int | Categorical | Constant
Searched = Float | Int | Categorical
