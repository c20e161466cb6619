"""Matrix products in single precision on a CPU: by MKL or by oneDNN, whichever is faster here.

PyTorch gives products of float32 to MKL, which does not use AVX-512 on processors of other makers
than its own; oneDNN, which PyTorch carries too, does, and is then twice as fast. It is asked for
through PyTorch's switch for products of reduced precision. On processors that really have such
instructions the switch would reduce precision, so a product is only given to oneDNN where it was
found both faster and as exact as MKL's, on numbers of its own shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tuner.training.tape.calls import Call, Tape, Value, substituted

aten = torch.ops.aten
_MKLDNN: Any = torch.backends.mkldnn  # which torch has no types for

PRODUCTS: Mapping[Any, Callable[..., Tensor]] = {
    aten.bmm.default: torch.bmm,
    aten.mm.default: torch.mm,
    aten.addmm.default: torch.addmm,
    aten.baddbmm.default: torch.baddbmm,
}
FULL_PRECISION = ("none", "ieee")
"""Positions of PyTorch's switch at which it is ours to throw: nobody asked for less."""
ONEDNN = "bf16"
"""The position at which oneDNN is asked."""
REPEATS = 5
WORTH = 0.95
"""oneDNN's part of MKL's time from which on it is taken."""
EXACT = 2.0
"""How many times MKL's error oneDNN may make."""
LEAST = 1 << 15
"""Multiplications below which a product's time is all overhead."""

_faster: dict[tuple[Any, ...], bool] = {}


def by_onednn(call: Call, tape: Tape) -> bool:
    """Whether a recorded product is to be given to oneDNN."""
    if call.target not in PRODUCTS or position() not in FULL_PRECISION:
        return False
    operands = [tape.values[index] for index in call.uses]
    result = tape.values[call.result]
    if result.device.type != "cpu" or result.dtype != torch.float32:
        return False
    inner = operands[-1].shape[-2]
    if torch.Size(result.shape).numel() * inner < LEAST:
        return False
    key = (call.target, *(value.layout for value in operands), torch.get_num_threads())
    if key not in _faster:
        _faster[key] = _compare(call, tape)
    return _faster[key]


def position() -> str:
    """Where PyTorch's switch stands, which is the whole process's; empty where there is none."""
    if not _MKLDNN.is_available():
        return ""
    return str(getattr(getattr(_MKLDNN, "matmul", None), "fp32_precision", ""))


def throw(position: str) -> None:
    """Throws the switch."""
    _MKLDNN.matmul.fp32_precision = position


def _compare(call: Call, tape: Tape) -> bool:
    random = torch.Generator().manual_seed(0)
    tensors = {index: _filled(tape.values[index], random) for index in call.uses}

    def run() -> Tensor:
        (found,) = call.run(tensors.__getitem__)
        assert found is not None
        return found

    args, kwargs = substituted((call.args, call.kwargs), lambda i: tensors[i].double())
    exact = call.target(*args, **kwargs)
    seconds, errors = [], []
    before = position()
    try:
        for chosen in (before, ONEDNN):
            throw(chosen)
            errors.append(float((run().double() - exact).norm()))
            times = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            seconds.append(min(times))
    finally:
        throw(before)
    return seconds[1] < WORTH * seconds[0] and errors[1] <= EXACT * errors[0]


def _filled(value: Value, random: torch.Generator) -> Tensor:
    tensor = value.empty()
    if 0 in value.stride:
        return torch.randn(value.shape, generator=random)[_first(value)].expand(value.shape)
    return tensor.copy_(torch.randn(value.shape, generator=random))


def _first(value: Value) -> tuple[slice, ...]:
    """The part of a broadcast value that is in memory."""
    return tuple(slice(0, 1) if step == 0 else slice(None) for step in value.stride)
