"""How much memory a trial takes, and how many of them a device holds.

Parameters, gradients and optimizer state are counted; activations are measured at two batch sizes,
since no formula knows a model's. On a GPU plan on the allocator's reserved peak: reset the peak,
take three full steps (optimizer state is made lazily), read ``max_memory_reserved`` at two batch
sizes, and add the context (what ``mem_get_info`` shows gone before any tensor).

Korthikanti et al. 2022 (arXiv 2205.05198) for the transformer's activations; Rajbhandari et al.
2020 (ZeRO, 1910.02054) for mixed precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tuner.errors import InvalidInput

Precision = Literal["fp32", "autocast", "mixed", "bf16"]
Processes = Literal["one", "each"]

PRECISIONS: dict[str, str] = {
    "fp32": "weights, gradients and state in float32",
    "autocast": "as fp32, plus a half-precision copy of the weights that autocast caches",
    "mixed": "half-precision weights and gradients, float32 master weights and state (ZeRO)",
    "bf16": "weights, gradients and state in bfloat16",
}

PLAIN: dict[str, float] = {"sgd": 0.0, "rmsprop": 4.0}
"""Bytes of float32 state in torch's own optimizers without momentum. The rules here keep a buffer
all the same, so that trials with and without momentum share a population."""

HEADROOM = 0.9
"""Share of a device's memory to plan on; the rest is fragmentation and surprises."""


@dataclass(frozen=True)
class BytesPerParameter:
    """Where the bytes of one parameter go."""

    weights: float
    gradients: float
    state: float
    extra: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.state + self.extra

    def to_dict(self) -> dict[str, float]:
        """The same as JSON values."""
        return asdict(self) | {"total": self.total}


def state_bytes(optimizer: str, itemsize: int = 4) -> float:
    """Bytes of state per parameter, counted by the optimizer's own rule on a 256 x 256 matrix."""
    # Here, not above: it loads torch, which most callers of this room need not.
    from tuner import optimizers  # noqa: PLC0415

    return optimizers.get(optimizer, "optimizer").state_bytes_per_parameter(itemsize)


def bytes_per_parameter(
    optimizer: str, precision: Precision = "fp32", *, state: float | None = None
) -> BytesPerParameter:
    """Weights, gradients and optimizer state of one parameter.

    >>> bytes_per_parameter("adamw", "mixed", state=8.0).total
    16.0

    Args:
        optimizer: Registry name.
        precision: A name of ``PRECISIONS``.
        state: Bytes of state, for an optimizer that is not registered; by default its rule's.
    """
    if precision not in PRECISIONS:
        raise InvalidInput("precision", f"{precision!r} is none of {', '.join(PRECISIONS)}")
    half = precision == "bf16"
    held = state if state is not None else state_bytes(optimizer, 2 if half else 4)
    if half:
        return BytesPerParameter(2, 2, held, 0)
    if precision == "mixed":
        return BytesPerParameter(2, 2, held, 4)
    return BytesPerParameter(4, 4, held, 2 if precision == "autocast" else 0)


def transformer_activations(
    sequence: int, batch: int, hidden: int, heads: int, layers: int = 1, *, flash: bool = False
) -> float:
    """Bytes of a transformer's activations at 16 bits: ``s b h (34 + 5 a s / h)`` a layer.

    Flash attention keeps no score matrix, so the second term goes.

    >>> transformer_activations(1024, 8, 768, 12)
    717225984.0
    """
    scores = 0.0 if flash else 5 * heads * sequence / hidden
    return layers * sequence * batch * hidden * (34 + scores)


@dataclass(frozen=True)
class Footprint:
    """Memory as a line in the batch size: ``fixed + per_sample batch_size`` bytes."""

    fixed: float
    per_sample: float

    def at(self, batch_size: float) -> float:
        """Bytes at a batch size."""
        return self.fixed + self.per_sample * batch_size

    def to_dict(self) -> dict[str, float]:
        """The same as JSON values."""
        return asdict(self)


def measured(batch_sizes: Sequence[int], peaks: Sequence[float]) -> Footprint:
    """The line through peaks that were measured at two batch sizes or more.

    >>> measured([8, 24], [1.8e9, 3.4e9])
    Footprint(fixed=1000000000.0, per_sample=100000000.0)

    Raises:
        InvalidInput: One batch size only, or memory that falls as the batch grows (not a peak).
    """
    if len(batch_sizes) != len(peaks) or len(set(batch_sizes)) < 2:
        raise InvalidInput("batch_sizes", "it takes peaks at two different batch sizes")
    x, y = np.array(batch_sizes, dtype=np.float64), np.array(peaks, dtype=np.float64)
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))
    # Allocators round, and so do floats: a fall of a thousandth is no fall.
    if not slope * (x.max() - x.min()) >= -1e-3 * y.max():
        raise InvalidInput(
            "peaks",
            "memory falls as the batch grows: reset the peak before each and take full steps",
        )
    slope = max(0.0, slope)
    return Footprint(float(y.mean() - slope * x.mean()), slope)


def trials_per_device(
    capacity: float,
    parameters: float,
    activations: float,
    context: float = 0.0,
    *,
    processes: Processes = "one",
    headroom: float = HEADROOM,
) -> int:
    """How many trials fit, all in ``one`` process or in one process ``each``.

    >>> trials_per_device(80e9, 1.984e9, 5e9, 0.5e9)
    10
    >>> trials_per_device(80e9, 1.984e9, 5e9, 0.5e9, processes="each")
    9

    Args:
        capacity: Bytes of the device.
        parameters: Bytes of weights, gradients and state of one trial.
        activations: Bytes of one trial's activations at its micro-batch.
        context: Bytes that each process takes before any tensor.
        processes: Whether the context is shared.
        headroom: Share of the capacity to plan on.
    """
    for name, value in (("capacity", capacity), ("parameters", parameters)):
        if not (math.isfinite(value) and value > 0):
            raise InvalidInput(name, f"{value!r} is not a positive number of bytes")
    for name, value in (("activations", activations), ("context", context)):
        if not (math.isfinite(value) and value >= 0):
            raise InvalidInput(name, f"{value!r} is not a number of bytes")
    if not 0 < headroom <= 1:
        raise InvalidInput("headroom", f"{headroom!r} is outside (0, 1]")
    if processes not in ("one", "each"):
        raise InvalidInput("processes", f"{processes!r} is neither 'one' nor 'each'")
    each = parameters + activations
    if processes == "each":
        return max(0, math.floor(headroom * capacity / (each + context)))
    return max(0, math.floor((headroom * capacity - context) / each))


@dataclass(frozen=True)
class MemoryAdvice:
    """What one trial takes, and what a device holds.

    Attributes:
        optimizer: Registry name.
        precision: A name of ``PRECISIONS``.
        per_parameter: Bytes of one parameter by kind.
        parameter_bytes: Weights, gradients and state of one trial.
        activation_bytes: Of one trial at ``batch_size``; None if never measured.
        batch_size: Samples whose activations are held at once (the micro-batch).
        trials_one_process: How many fit in one process; None without a capacity or activations.
        trials_each: How many fit with a process each.
        largest_batch: Largest such batch of a single trial; None if unknown.
        basis: ``measured`` or ``formula``.
        cautions: What the numbers leave out.
    """

    optimizer: str
    precision: str
    per_parameter: BytesPerParameter
    parameter_bytes: float
    activation_bytes: float | None
    batch_size: int
    trials_one_process: int | None
    trials_each: int | None
    largest_batch: int | None
    basis: Literal["measured", "formula"]
    cautions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self) | {
            "per_parameter": self.per_parameter.to_dict(),
            "cautions": list(self.cautions),
        }

    def __str__(self) -> str:
        text = (
            f"{self.optimizer}, {self.precision}: {self.per_parameter.total:.4g} bytes a "
            f"parameter, {_size(self.parameter_bytes)} a trial"
        )
        if self.activation_bytes is not None:
            text += f" and {_size(self.activation_bytes)} activations at batch {self.batch_size}"
        if self.trials_one_process is not None:
            text += (
                f"; {self.trials_one_process} trials in one process, {self.trials_each} in one each"
            )
        return "\n  ".join([text, *(f"caution: {caution}" for caution in self.cautions)])


def memory(
    optimizer: str,
    parameters: int,
    *,
    precision: Precision = "fp32",
    batch_size: int = 1,
    activations: Footprint | None = None,
    peaks: Footprint | None = None,
    capacity: float | None = None,
    context: float = 0.0,
    headroom: float = HEADROOM,
    state: float | None = None,
) -> MemoryAdvice:
    """What one trial takes and how many a device holds; the worker sizes its population by it.

    Args:
        optimizer: Registry name.
        parameters: Number of parameters of one model.
        precision: A name of ``PRECISIONS``.
        batch_size: Samples whose activations are held at once.
        activations: Activations alone, from a formula or a profiler.
        peaks: Whole peaks of one trial without the context (:func:`measured`); they win over the
            rest.
        capacity: Bytes of the device.
        context: Bytes that each process takes before any tensor.
        headroom: Share of the capacity to plan on.
        state: Bytes of state per parameter, where the optimizer is not registered.
    """
    if parameters < 1:
        raise InvalidInput("parameters", f"{parameters!r} is below 1")
    if batch_size < 1:
        raise InvalidInput("batch_size", f"{batch_size!r} is below 1")
    each = bytes_per_parameter(optimizer, precision, state=state)
    fixed, cautions = each.total * parameters, []
    if peaks is not None:
        # A peak holds gradients and activations of one moment, so the line's foot may lie below the
        # sum.
        line = Footprint(max(peaks.fixed, 0.0), peaks.per_sample)
        held: float | None = max(0.0, line.at(batch_size) - fixed)
        slope = peaks.per_sample
    elif activations is not None:
        held, slope = activations.at(batch_size), activations.per_sample
        cautions.append("activations are not the allocator's peak: fragmentation comes on top")
    else:
        held, slope = None, 0.0
        cautions.append("activations were not measured, and they often outweigh all else")
    if optimizer in PLAIN and state is None:
        cautions.append(
            f"the state holds a momentum buffer; torch's own {optimizer} without momentum keeps "
            f"{PLAIN[optimizer]:g} bytes in float32"
        )
    one = apart = largest = None
    if capacity is not None and held is not None:
        one = trials_per_device(capacity, fixed, held, context, headroom=headroom)
        apart = trials_per_device(
            capacity, fixed, held, context, processes="each", headroom=headroom
        )
        if slope >= 1:  # less than a byte a sample bounds nothing
            rest = headroom * capacity - context - fixed - (held - slope * batch_size)
            largest = max(0, math.floor(rest / slope))
    basis: Literal["measured", "formula"] = "formula" if peaks is None else "measured"
    return MemoryAdvice(
        optimizer,
        precision,
        each,
        fixed,
        held,
        batch_size,
        one,
        apart,
        largest,
        basis,
        tuple(cautions),
    )


def _size(count: float) -> str:
    """Bytes in the unit that leaves few digits before the point."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count:.0f} bytes"
