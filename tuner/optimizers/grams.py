"""Grams: the sign of the gradient, the size of Adam's step.

Cao et al., "Grams: Gradient Descent with Adaptive Momentum Scaling", 2024,
https://arxiv.org/abs/2412.17107
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.adam import Adam
from tuner.optimizers.hyper import beta1, beta2, decoupled_decay, epsilon, log_lr
from tuner.optimizers.rule import Dims, Hyper


@register("grams")
class Grams(Adam):
    """Steps down the present gradient's sign, as far as Adam would have gone.

    Equations, with u Adam's bias-corrected ``m^ / (sqrt(v^) + eps)``::

        p = (1 - lr weight_decay) p - lr sign(g) |u|

    State: ``exp_avg``, ``exp_avg_sq``, shaped as the parameter.

    Differs: nothing from the paper; the default eps 1e-6 is the authors' (Adam has 1e-8).
    """

    summary = "The sign of the gradient, the size of Adam's step."
    when = "Smooth losses where momentum overshoots; large batches."
    formula = "p = (1 - lr wd) p - lr sign(g) |m^ / (sqrt(v^) + eps)|"
    reference = (
        "Grams: Gradient Descent with Adaptive Momentum Scaling",
        2024,
        "https://arxiv.org/abs/2412.17107",
    )
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-3, 1e-5, 1e-1),
        "beta1": beta1(0.9),
        "beta2": beta2(0.999),
        "eps": epsilon(1e-6),
        "weight_decay": decoupled_decay(),
    }

    def __init__(self, *, decoupled: bool = True, amsgrad: bool = False) -> None:
        super().__init__(decoupled=decoupled, amsgrad=amsgrad)

    @override
    def direction(self, u: Tensor, g: Tensor, dims: Dims) -> Tensor:
        return g.sign() * u.abs()
