"""AdEMAMix: Adam with a second, much slower mean of the gradient.

Pagliardini, Ablin and Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", 2024,
https://arxiv.org/abs/2409.03137
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import (
    beta1,
    beta2,
    decay_rate,
    decoupled_decay,
    epsilon,
    log_lr,
    setting,
)
from tuner.optimizers.rule import Dims, Hyper, Prior, Rule, Tensors

_PAPER = "Pagliardini et al., 2024, section 3"


@register("ademamix")
class AdEMAMix(Rule):
    """Steps by a fast mean plus ``alpha`` times a slow one.

    Equations (t counts from 1; T is ``warmup_steps``)::

        f = min(t / T, 1)
        alpha_t = f alpha
        beta3_t = exp(ln beta1 ln beta3 / ((1 - f) ln beta3 + f ln beta1))
        m = EMA(g, beta1);   s = EMA(g, beta3_t);   v = EMA(g^2, beta2)
        p = (1 - lr weight_decay) p - lr (m / (1 - beta1^t) + alpha_t s) / (sqrt(v^) + eps)

    State: ``exp_avg``, ``exp_avg_slow``, ``exp_avg_sq``, shaped as the parameter.

    Differs: the paper sets T to the whole run; here it is a setting, and 0 warms nothing.
    pytorch-optimizer couples the decay by default; we decouple it as the paper does.

    Args:
        decoupled: Whether decay shrinks the weights or is added to the gradient.
    """

    summary = "Adam with a second, much slower mean of the gradient."
    when = "Long runs, where gradients stay useful for thousands of steps."
    formula = "p = (1 - lr wd) p - lr (m^ + a s) / (sqrt(v^) + eps)"
    reference = (
        "The AdEMAMix Optimizer: Better, Faster, Older",
        2024,
        "https://arxiv.org/abs/2409.03137",
    )
    state = ("exp_avg", "exp_avg_slow", "exp_avg_sq")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-3, 1e-5, 1e-1),
        "beta1": beta1(0.9),
        "beta2": beta2(0.999),
        "beta3": decay_rate(0.9999, (0.99, 0.99999), 0.9999, 0.7, "decay of the slow mean", _PAPER),
        "alpha": Hyper(
            5.0,
            low=0.0,
            search=(1.0, 10.0),
            log=True,
            prior=Prior(5.0, 0.3, _PAPER),
            doc="weight of the slow mean",
        ),
        "eps": epsilon(1e-8),
        "weight_decay": decoupled_decay(),
        "warmup_steps": setting(0.0, doc="steps over which alpha and beta3 are warmed"),
    }

    def __init__(self, *, decoupled: bool = True) -> None:
        self.decoupled = decoupled

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step + 1
        warm = (t / h["warmup_steps"].clamp_min(1e-9)).clamp_max(1.0)
        # So written, a beta of 0, whose logarithm is -inf, gives the limit and no NaN.
        warmed = torch.exp(1 / ((1 - warm) / h["beta1"].log() + warm / h["beta3"].log()))
        beta3 = torch.where(warm < 1, warmed, h["beta3"].expand_as(warm))
        root = (1 - h["beta2"] ** t).sqrt()
        return {
            "keep1": 1 - h["beta1"],
            "keep2": 1 - h["beta2"],
            "keep3": 1 - beta3,
            "step_m": -h["lr"] * root / (1 - h["beta1"] ** t),
            "step_s": -h["lr"] * root * warm * h["alpha"],
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
        s = torch.lerp(state["exp_avg_slow"], g, c["keep3"])
        v = torch.lerp(state["exp_avg_sq"], g * g, c["keep2"])
        u = (m * c["step_m"] + s * c["step_s"]) / (v.sqrt() + c["eps"])
        return p + u, {"exp_avg": m, "exp_avg_slow": s, "exp_avg_sq": v}
