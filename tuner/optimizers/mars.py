"""MARS: Adam on a variance-reduced gradient.

Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
https://arxiv.org/abs/2411.10438
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
from tuner.optimizers.rule import Dims, Hyper, Prior, Rule, Tensors

_PAPER = "Yuan et al., 2024, section 4"


@register("mars")
class MARS(Rule):
    """Adds the gradient's change to the gradient, clips it, and hands it to AdamW.

    Equations; norms over one parameter tensor (of one slot), g' the last gradient (0 at first)::

        c = g + gamma beta1 / (1 - beta1) (g - g');   c = c / max(|c|, 1)
        m = EMA(c, beta1);   v = EMA(c^2, beta2)
        p = (1 - lr weight_decay) p - lr m^ / (sqrt(v^) + eps)

    Vectors and scalars get plain AdamW (c = g), as the authors' ``optimize_1d=False``. State:
    ``exp_avg``, ``exp_avg_sq``, ``last_grad``, shaped as the parameter.

    Differs: this is the authors' MARS-AdamW with the last step's gradient ("approximate"), since
    the exact form needs a second backward pass. Vectors share lr and betas with matrices, where the
    authors give them their own. eps is added after the bias correction, as in Adam and timm;
    pytorch-optimizer adds it before (1e-7 apart).

    Args:
        optimize_1d: Whether vectors and scalars get the correction too.
    """

    summary = "AdamW on a variance-reduced gradient."
    when = "Language models with noisy gradients; one more state buffer than AdamW."
    formula = "c = clip(g + gamma b1 / (1 - b1) (g - g')); AdamW on c"
    reference = (
        "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
        2024,
        "https://arxiv.org/abs/2411.10438",
    )
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "tensor"
    state = ("exp_avg", "exp_avg_sq", "last_grad")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(3e-3, 1e-5, 1e-1),
        "beta1": beta1(0.95, _PAPER),
        "beta2": beta2(0.99, 0.99, _PAPER),
        "gamma": Hyper(
            0.025,
            low=0.0,
            search=(1e-3, 1.0),
            log=True,
            prior=Prior(0.025, 0.5, _PAPER),
            doc="weight of the gradient's change",
        ),
        "eps": epsilon(1e-8),
        "weight_decay": decoupled_decay(),
    }

    def __init__(self, *, optimize_1d: bool = False) -> None:
        self.optimize_1d = optimize_1d

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step + 1
        root = (1 - h["beta2"] ** t).sqrt()
        return {
            "keep1": 1 - h["beta1"],
            "keep2": 1 - h["beta2"],
            "gain": h["gamma"] * h["beta1"] / (1 - h["beta1"]),
            "step_size": -h["lr"] * root / (1 - h["beta1"] ** t),
            "eps": h["eps"] * root,
            "decay": 1 - h["lr"] * h["weight_decay"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        d = g
        if self.optimize_1d or len(dims) > 1:
            d = torch.addcmul(g, g - state["last_grad"], c["gain"])
            d = d / norm(d, dims).clamp_min(1)
        m = torch.lerp(state["exp_avg"], d, c["keep1"])
        v = torch.lerp(state["exp_avg_sq"], d * d, c["keep2"])
        p = torch.addcmul(p * c["decay"], m / (v.sqrt() + c["eps"]), c["step_size"])
        return p, {"exp_avg": m, "exp_avg_sq": v, "last_grad": g.clone()}
