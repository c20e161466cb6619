"""Warm-up: what multiplies the schedule's first value in the steps before it.

Step ``t`` of ``W`` gets ``f((t + 1) / W)``: the first step already moves, and the last one is at
the full rate (``t / W``, as optax has it, wastes the first step at a rate of 0). Goyal et al.,
"Accurate, Large Minibatch SGD", 2017, https://arxiv.org/abs/1706.02677.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def _linear(x: Tensor) -> Tensor:
    return x


def _cosine(x: Tensor) -> Tensor:
    return 0.5 * (1.0 - (math.pi * x).cos())


def _exponential(x: Tensor) -> Tensor:
    return 100.0 ** (x - 1.0)  # from a hundredth, by equal factors


def _constant(x: Tensor) -> Tensor:
    # A tenth throughout (He et al., 2015, warm ResNet-110 up at 0.01 of 0.1); a jump follows.
    return torch.full_like(x, 0.1)


SHAPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
    "constant": _constant,
}


def factor(shape: str, step: Tensor, warmup_steps: Tensor) -> Tensor:
    """The warm-up's factor at each step from 0: 1 from ``warmup_steps`` on. Broadcasts.

    Example:
        >>> factor("linear", torch.arange(4.0), torch.tensor(3.0))
        tensor([0.3333, 0.6667, 1.0000, 1.0000])
    """
    x = ((step + 1.0) / warmup_steps.clamp(min=1.0)).clamp(max=1.0)
    return torch.where(step < warmup_steps, SHAPES[shape](x), 1.0)
