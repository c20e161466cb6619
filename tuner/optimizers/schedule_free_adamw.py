"""Schedule-Free AdamW: an average of the iterates in place of a decaying rate.

Defazio et al., "The Road Less Scheduled", 2024, https://arxiv.org/abs/2405.15682
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import COMMON, beta2, decoupled_decay, epsilon, log_lr, setting
from tuner.optimizers.matrix import one_per_slot
from tuner.optimizers.rule import Dims, Hyper, Prior, Rule, Tensors


@register("schedule_free_adamw")
class ScheduleFreeAdamW(Rule):
    """Takes gradients at y, between a fast sequence z and its average x, and ships x.

    Equations (t counts from 1; e is the greatest rate so far)::

        v = EMA(g^2, beta2);   d = g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay y
        w = t^r e^weight_lr_power;   W = W + w;   k = w / W
        y = (1 - k) y + k z + lr (beta1 (1 - k) - 1) d
        z = z - lr d
        x = y + (1 - 1 / beta1) (z - y)                           (to evaluate)

    The parameters hold y while training. State: ``z``, ``exp_avg_sq`` shaped as the parameter;
    ``weight_sum`` (W) and ``lr_max`` (e), one number each.

    Differs: nothing from the authors' package, except that warm-up belongs to the schedule. As
    there, rates of 0 move nothing until one was above it; after that the average goes on. Keras
    averages with plain 1/t; optax differs too.
    """

    summary = "An average of the iterates in place of a decaying rate."
    when = "When the length of training is not known ahead; use a constant rate."
    formula = "d = g / (sqrt(v^) + eps) + wd y; z = z - lr d; x = lerp(x, z, k); y = lerp(z, x, b1)"
    reference = ("The Road Less Scheduled", 2024, "https://arxiv.org/abs/2405.15682")
    eval_mode = True
    state = ("z", "exp_avg_sq", "weight_sum", "lr_max")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(2.5e-3, 1e-5, 1e-1),
        "beta1": Hyper(
            0.9,
            low=0.0,
            high=1.0,
            open_low=True,  # x is y divided by it
            open_high=True,
            search=(0.7, 0.99),
            log=True,
            complement=True,
            prior=Prior(0.9, 0.5, COMMON, of="complement"),
            doc="where between z and x gradients are taken",
        ),
        "beta2": beta2(0.999),
        "eps": epsilon(1e-8),
        "weight_decay": decoupled_decay(),
        "r": setting(0.0, doc="power of the step in the average's weights"),
        "weight_lr_power": setting(2.0, doc="power of the rate in the average's weights"),
    }

    @override
    def init(self, p: Tensor, dims: Dims) -> dict[str, Tensor]:
        return {
            "z": p.clone(),
            "exp_avg_sq": torch.zeros_like(p),
            "weight_sum": one_per_slot(p, dims),
            "lr_max": one_per_slot(p, dims),
        }

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step + 1
        return {
            "lr": h["lr"],
            "beta1": h["beta1"],
            "keep2": 1 - h["beta2"],
            "root": (1 - h["beta2"] ** t).rsqrt(),
            "eps": h["eps"],
            "decay": h["weight_decay"],
            "weight": t ** h["r"],
            "power": h["weight_lr_power"],
            "to_x": 1 - 1 / h["beta1"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        lr_max = torch.maximum(state["lr_max"], c["lr"])
        weight = c["weight"] * lr_max ** c["power"]
        total = state["weight_sum"] + weight
        k = torch.where(total > 0, weight / total, torch.zeros_like(total))
        v = torch.lerp(state["exp_avg_sq"], g * g, c["keep2"])
        d = torch.addcmul(g / (v.sqrt() * c["root"] + c["eps"]), p, c["decay"])
        y = torch.addcmul(torch.lerp(p, state["z"], k), d, c["lr"] * (c["beta1"] * (1 - k) - 1))
        z = torch.addcmul(state["z"], d, -c["lr"])
        return y, {"z": z, "exp_avg_sq": v, "weight_sum": total, "lr_max": lr_max}

    @override
    def eval_params(self, p: Tensor, state: Tensors, c: Tensors) -> Tensor:
        return torch.lerp(p, state["z"], c["to_x"])
