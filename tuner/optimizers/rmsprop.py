"""RMSprop: steps by the gradient over its running root mean square.

Tieleman and Hinton, "Lecture 6.5: rmsprop", Neural Networks for Machine Learning, 2012,
https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import beta2, coupled_decay, epsilon, log_lr, setting
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors


@register("rmsprop")
class RMSprop(Rule):
    """Divides the gradient by a moving average of its size.

    Equations::

        g = g + weight_decay p
        v = beta2 v + (1 - beta2) g^2
        a = beta2 a + (1 - beta2) g                       (centered only; v is then v - a^2 below)
        b = momentum b + g / (sqrt(v) + eps)
        p = p - lr b

    State: ``square_avg``, ``momentum_buffer`` (``grad_avg`` where centered), as the parameter.

    Differs: torch calls beta2 ``alpha`` and Keras ``rho``; it is named as in every other rule here,
    so that one search space serves all. eps is outside the root, as in torch (optax and Keras:
    inside), and v starts at 0 (timm's TensorFlow form: 1, which changes the first steps). The
    centered variance is held at 0 or above, where torch's rounding can make it NaN.

    Args:
        centered: Whether to divide by the standard deviation instead of the root mean square.
    """

    summary = "The gradient over its running root mean square."
    when = "Reinforcement learning, recurrent networks; EfficientNet recipes."
    formula = "v = b2 v + (1 - b2) g^2; p = p - lr g / (sqrt(v) + eps)"
    reference = (
        "Lecture 6.5: rmsprop",
        2012,
        "https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
    )
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-2, 1e-5, 1e-1),
        "beta2": replace(beta2(0.99), search=(0.9, 0.9999)),
        "eps": epsilon(1e-8),
        "weight_decay": coupled_decay(),
        "momentum": setting(0.0, high=1.0, open_high=True, doc="decay of the step's sum"),
    }

    def __init__(self, *, centered: bool = False) -> None:
        self.centered = centered
        self.state = ("square_avg", "momentum_buffer") + (("grad_avg",) if centered else ())

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        return {
            "step_size": -h["lr"],
            "keep": 1 - h["beta2"],
            "eps": h["eps"],
            "decay": h["weight_decay"],
            "momentum": h["momentum"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        g = torch.addcmul(g, p, c["decay"])
        v = torch.lerp(state["square_avg"], g * g, c["keep"])
        new = {"square_avg": v}
        if self.centered:
            a = torch.lerp(state["grad_avg"], g, c["keep"])
            new["grad_avg"] = a
            v = (v - a * a).clamp_min(0)
        u = g / (v.sqrt() + c["eps"])
        b = torch.addcmul(u, state["momentum_buffer"], c["momentum"])
        new["momentum_buffer"] = b
        return torch.addcmul(p, b, c["step_size"]), new
