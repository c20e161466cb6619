"""NAdam: Adam with Nesterov's look-ahead and a warmed momentum.

Dozat, "Incorporating Nesterov Momentum into Adam", 2016,
https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import beta1, beta2, coupled_decay, epsilon, log_lr, setting
from tuner.optimizers.matrix import one_per_slot
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors


@register("nadam")
class NAdam(Rule):
    """Adam's step with the momentum the next step will have.

    Equations (t counts from 1)::

        mu_t = beta1 (1 - 0.5 * 0.96^(t momentum_decay)),  M_t = mu_1 ... mu_t
        g = g + weight_decay p                                    (coupled; not with decoupled)
        m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
        u = mu_(t+1) m / (1 - M_t mu_(t+1)) + (1 - mu_t) g / (1 - M_t)
        p = p - lr u / (sqrt(v / (1 - beta2^t)) + eps)

    State: ``exp_avg``, ``exp_avg_sq``, shaped as the parameter; ``mu_product`` (M), one number.

    Differs: as in torch, the mean ``m`` decays by beta1 rather than by mu_t, and momentum_decay is
    0.004 (the paper's and Keras's schedule is 1). optax and timm's NAdamW have two simpler forms.

    Args:
        decoupled: Whether decay shrinks the weights or is added to the gradient.
    """

    summary = "Adam with Nesterov's look-ahead."
    when = "Recurrent networks; a slightly faster start than Adam."
    formula = "p = p - lr [mu' m / (1 - M mu') + (1 - mu) g / (1 - M)] / (sqrt(v^) + eps)"
    reference = (
        "Incorporating Nesterov Momentum into Adam",
        2016,
        "https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ",
    )
    state = ("exp_avg", "exp_avg_sq", "mu_product")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(2e-3, 1e-5, 1e-1),
        "beta1": beta1(0.9),
        "beta2": beta2(0.999),
        "eps": epsilon(1e-8),
        "weight_decay": coupled_decay(),
        "momentum_decay": setting(4e-3, doc="how fast the momentum warms"),
    }

    def __init__(self, *, decoupled: bool = False) -> None:
        self.decoupled = decoupled

    @override
    def init(self, p: Tensor, dims: Dims) -> dict[str, Tensor]:
        one = one_per_slot(p, dims) + 1
        return {
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
            "mu_product": one,
        }

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step + 1
        mu = h["beta1"] * (1 - 0.5 * 0.96 ** (t * h["momentum_decay"]))
        mu_next = h["beta1"] * (1 - 0.5 * 0.96 ** ((t + 1) * h["momentum_decay"]))
        root = (1 - h["beta2"] ** t).sqrt()
        return {
            "keep1": 1 - h["beta1"],
            "keep2": 1 - h["beta2"],
            "mu": mu,
            "mu_next": mu_next,
            "step_size": h["lr"] * root,
            "eps": h["eps"] * root,
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
        m = torch.lerp(state["exp_avg"], g, c["keep1"])
        v = torch.lerp(state["exp_avg_sq"], g * g, c["keep2"])
        product = state["mu_product"] * c["mu"]
        step_m = c["step_size"] * c["mu_next"] / (1 - product * c["mu_next"])
        step_g = c["step_size"] * (1 - c["mu"]) / (1 - product)
        p = p - (step_m * m + step_g * g) / (v.sqrt() + c["eps"])
        return p, {"exp_avg": m, "exp_avg_sq": v, "mu_product": product}
