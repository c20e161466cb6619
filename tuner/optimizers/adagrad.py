"""Adagrad: each coordinate's rate falls with the squares it has seen.

Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization", 2011, https://jmlr.org/papers/v12/duchi11a.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import coupled_decay, epsilon, log_lr, setting
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors


@register("adagrad")
class Adagrad(Rule):
    """Steps by the gradient over the root of the sum of its squares.

    Equations (t counts from 1)::

        g = g + weight_decay p
        a = a + g^2
        p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(initial_accumulator + a) + eps)

    State: ``sum``, shaped as the parameter; it starts at 0 and ``initial_accumulator`` is added
    where it is used, so that slots may differ in it.

    Differs: initial_accumulator 0 and eps outside the root, as in the paper and torch; optax and
    Keras start at 0.1 with eps 1e-7 inside the root.
    """

    summary = "Each coordinate's rate falls with the squares it has seen."
    when = "Sparse features, convex problems."
    formula = "a = a + g^2; p = p - lr g / (sqrt(a) + eps)"
    reference = (
        "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
        2011,
        "https://jmlr.org/papers/v12/duchi11a.html",
    )
    state = ("sum",)
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-2, 1e-4, 1.0),
        "eps": epsilon(1e-10, searched=False),
        "weight_decay": coupled_decay(),
        "lr_decay": setting(0.0, doc="rate falls as 1 / (1 + this x step)"),
        "initial_accumulator": setting(0.0, doc="added to the sum of squares"),
    }

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        return {
            "step_size": -h["lr"] / (1 + step * h["lr_decay"]),
            "eps": h["eps"],
            "decay": h["weight_decay"],
            "initial": h["initial_accumulator"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        g = torch.addcmul(g, p, c["decay"])
        a = torch.addcmul(state["sum"], g, g)
        u = g / ((a + c["initial"]).sqrt() + c["eps"])
        return torch.addcmul(p, u, c["step_size"]), {"sum": a}
