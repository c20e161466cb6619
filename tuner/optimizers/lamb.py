"""LAMB: Adam's step, scaled to each tensor's own norm.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2019,
https://arxiv.org/abs/1904.00962
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import beta1, beta2, decoupled_decay, epsilon, log_lr
from tuner.optimizers.matrix import norm
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors


@register("lamb")
class LAMB(Rule):
    """Makes every tensor move by ``lr`` times its own norm.

    Equations, norms over one parameter tensor (of one slot)::

        u = m^ / (sqrt(v^) + eps) + weight_decay p
        p = p - lr (|p| / |u|) u                                  (ratio 1 where a norm is 0)

    State: ``exp_avg``, ``exp_avg_sq``, shaped as the parameter.

    Differs: as in optax, no clipping of the gradient's global norm to 1 (timm, NVIDIA), none of |p|
    to 10 (pytorch-optimizer), and the ratio holds without decay too (timm then uses 1). The bias
    correction is that of the paper's Algorithm 2.
    """

    summary = "Adam's step, scaled to each tensor's own norm."
    when = "Very large batches (thousands), transformers."
    formula = "u = m^ / (sqrt(v^) + eps) + wd p; p = p - lr |p| / |u| u"
    reference = (
        "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
        2019,
        "https://arxiv.org/abs/1904.00962",
    )
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "tensor"
    state = ("exp_avg", "exp_avg_sq")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-3, 1e-5, 1e-1),
        "beta1": beta1(0.9),
        "beta2": beta2(0.999),
        "eps": epsilon(1e-6),
        "weight_decay": decoupled_decay(),
    }

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step + 1
        root = (1 - h["beta2"] ** t).sqrt()
        return {
            "keep1": 1 - h["beta1"],
            "keep2": 1 - h["beta2"],
            "debias": root / (1 - h["beta1"] ** t),
            "eps": h["eps"] * root,
            "step_size": -h["lr"],
            "decay": h["weight_decay"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        m = torch.lerp(state["exp_avg"], g, c["keep1"])
        v = torch.lerp(state["exp_avg_sq"], g * g, c["keep2"])
        u = torch.addcmul(m / (v.sqrt() + c["eps"]) * c["debias"], p, c["decay"])
        size, length = norm(p, dims), norm(u, dims)
        usable = (size > 0) & (length > 0)
        ratio = torch.where(usable, size / length, torch.ones_like(size))
        return p + u * (ratio * c["step_size"]), {"exp_avg": m, "exp_avg_sq": v}
