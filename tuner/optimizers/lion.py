"""Lion: steps by the sign of an interpolated momentum.

Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023,
https://arxiv.org/abs/2302.06675
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import beta1, beta2, decoupled_decay, log_lr
from tuner.optimizers.rule import Dims, Hyper, Prior, Rule, Tensors

_PAPER = "Chen et al., 2023: rates 3-10 times below AdamW's, decay 3-10 times above"


@register("lion")
class Lion(Rule):
    """Moves each coordinate by ``lr``, up or down, after decoupled decay.

    Equations::

        p = (1 - lr weight_decay) p - lr sign(beta1 m + (1 - beta1) g)
        m = beta2 m + (1 - beta2) g

    State: ``exp_avg``, shaped as the parameter: half of Adam's.

    Differs: nothing; the default decay is 0 as in the authors' code (optax: 1e-3).

    Args:
        decoupled: Whether decay shrinks the weights or is added to the gradient.
    """

    summary = "Steps by the sign of an interpolated momentum; half of Adam's state."
    when = "Large batches, vision and language transformers, scarce memory."
    formula = "p = (1 - lr wd) p - lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g"
    reference = (
        "Symbolic Discovery of Optimization Algorithms",
        2023,
        "https://arxiv.org/abs/2302.06675",
    )
    state = ("exp_avg",)
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-4, 1e-6, 1e-2, source=_PAPER),
        "beta1": beta1(0.9, _PAPER),
        "beta2": beta2(0.99, 0.99, _PAPER),
        "weight_decay": replace(decoupled_decay(), prior=Prior(1e-1, 1.0, _PAPER)),
    }

    def __init__(self, *, decoupled: bool = True) -> None:
        self.decoupled = decoupled

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        return {
            "keep1": 1 - h["beta1"],
            "keep2": 1 - h["beta2"],
            "step_size": -h["lr"],
            "decay": 1 - h["lr"] * h["weight_decay"] if self.decoupled else h["weight_decay"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.decoupled:
            p = p * c["decay"]
        else:
            g = torch.addcmul(g, p, c["decay"])
        u = torch.lerp(state["exp_avg"], g, c["keep1"])
        u = u.sign() + u * 0  # torch has sign(NaN) = 0: a broken run would look like a still one
        m = torch.lerp(state["exp_avg"], g, c["keep2"])
        return torch.addcmul(p, u, c["step_size"]), {"exp_avg": m}
