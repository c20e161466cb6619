"""LARS: momentum whose rate is scaled to each tensor's own norm.

You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", 2017,
https://arxiv.org/abs/1708.03888
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import log_lr, setting, switch
from tuner.optimizers.matrix import norm
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors
from tuner.optimizers.sgd import SGD


@register("lars")
class LARS(Rule):
    """SGD with momentum, each tensor's gradient first scaled to the tensor's size.

    Equations, norms over one parameter tensor (of one slot)::

        r = trust |p| / (|g| + weight_decay |p|)                  (1 where that is 0 or undefined)
        b = momentum b + r (g + weight_decay p)
        p = p - lr (b, or r (g + weight_decay p) + momentum b with nesterov)

    Vectors and scalars (biases, norms) are stepped by plain momentum without decay: r = 1,
    weight_decay = 0. State: ``momentum_buffer``, shaped as the parameter.

    Differs: the paper's ratio, with the sum of norms below the bar, as pytorch-optimizer and timm;
    optax divides by the norm of ``g + weight_decay p``. Leaving vectors alone is from the paper's
    experiments and pytorch-optimizer. The rate multiplies the buffer on its way out.
    """

    summary = "Momentum whose rate is scaled to each tensor's own norm."
    when = "Very large batches, convolutional networks."
    formula = "b = mu b + trust |p| / (|g| + wd |p|) (g + wd p); p = p - lr b"
    reference = (
        "Large Batch Training of Convolutional Networks",
        2017,
        "https://arxiv.org/abs/1708.03888",
    )
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "tensor"
    state = ("momentum_buffer",)
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1.0, 1e-2, 1e2),
        "momentum": replace(SGD.hyper["momentum"], default=0.9),
        "nesterov": switch(False, "step against the gradient + momentum b"),
        "trust": setting(1e-3, open_low=True, doc="part of a tensor's norm to move by"),
        "weight_decay": SGD.hyper["weight_decay"],
    }

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        return {
            "momentum": h["momentum"],
            "trust": h["trust"],
            "decay": h["weight_decay"],
            "step_g": -h["lr"] * h["nesterov"],
            "step_b": -h["lr"] * (h["nesterov"] * h["momentum"] + 1 - h["nesterov"]),
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if len(dims) > 1:
            size = norm(p, dims)
            below = norm(g, dims) + c["decay"] * size
            usable = (size > 0) & (below > 0)
            ratio = torch.where(usable, c["trust"] * size / below, torch.ones_like(size))
            g = torch.addcmul(g, p, c["decay"]) * ratio
        b = torch.addcmul(g, state["momentum_buffer"], c["momentum"])
        p = torch.addcmul(torch.addcmul(p, b, c["step_b"]), g, c["step_g"])
        return p, {"momentum_buffer": b}
