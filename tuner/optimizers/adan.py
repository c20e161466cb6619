"""Adan: Nesterov momentum estimated from differences of gradients.

Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", 2022,
https://arxiv.org/abs/2208.06677
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import COMMON, beta1, decay_rate, decoupled_decay, epsilon, log_lr
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors


@register("adan")
class Adan(Rule):
    """Adds the trend of the gradient to its mean, over the root mean square of both.

    Equations (t counts from 1), with ``d`` the difference from the last gradient (0 at first)::

        m = EMA(g, beta1);   q = EMA(d, beta2);   n = EMA((g + beta2 d)^2, beta3)
        u = (m / (1 - beta1^t) + beta2 q / (1 - beta2^t)) / (sqrt(n / (1 - beta3^t)) + eps)
        p = (p - lr u) / (1 + lr weight_decay)            (proximal; p (1 - lr wd) with decoupled)

    State: ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, ``previous_grad``, as the parameter.

    Differs: the paper prints the complements of the betas (0.02, 0.08, 0.01) and no bias correction
    of q; the betas here are decay rates, corrected as in the authors' code, timm and
    pytorch-optimizer. optax weights the difference by ``1 - beta2``: not ours.

    Args:
        decoupled: Whether decay multiplies before the step instead of dividing after it.
    """

    summary = "Nesterov momentum estimated from differences of gradients."
    when = "Vision transformers and large batches; takes rates 5-10 times AdamW's."
    formula = "p = (p - lr (m^ + b2 q^) / (sqrt(n^) + eps)) / (1 + lr wd)"
    reference = (
        "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models",
        2022,
        "https://arxiv.org/abs/2208.06677",
    )
    state = ("exp_avg", "exp_avg_diff", "exp_avg_sq", "previous_grad")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-3, 1e-5, 1e-1),
        "beta1": beta1(0.98),
        "beta2": decay_rate(0.92, (0.7, 0.99), 0.92, 0.7, "decay of the difference's mean", COMMON),
        "beta3": decay_rate(0.99, (0.9, 0.9999), 0.99, 1.0, "decay of the square", COMMON),
        "eps": epsilon(1e-8),
        "weight_decay": decoupled_decay(),
    }

    def __init__(self, *, decoupled: bool = False) -> None:
        self.decoupled = decoupled

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step + 1
        root = (1 - h["beta3"] ** t).sqrt()
        decay = h["lr"] * h["weight_decay"]
        return {
            "keep1": 1 - h["beta1"],
            "keep2": 1 - h["beta2"],
            "keep3": 1 - h["beta3"],
            "beta2": h["beta2"],
            "first": (step == 0).to(torch.float64),
            "eps": h["eps"] * root,
            "step_m": -h["lr"] * root / (1 - h["beta1"] ** t),
            "step_q": -h["lr"] * root * h["beta2"] / (1 - h["beta2"] ** t),
            "shrink": 1 - decay if self.decoupled else 1 / (1 + decay),
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        d = torch.where(c["first"] > 0, torch.zeros_like(g), g - state["previous_grad"])
        m = torch.lerp(state["exp_avg"], g, c["keep1"])
        q = torch.lerp(state["exp_avg_diff"], d, c["keep2"])
        ahead = torch.addcmul(g, d, c["beta2"])
        n = torch.lerp(state["exp_avg_sq"], ahead * ahead, c["keep3"])
        u = (m * c["step_m"] + q * c["step_q"]) / (n.sqrt() + c["eps"])
        p = p * c["shrink"] + u if self.decoupled else (p + u) * c["shrink"]
        return p, {"exp_avg": m, "exp_avg_diff": q, "exp_avg_sq": n, "previous_grad": g.clone()}
