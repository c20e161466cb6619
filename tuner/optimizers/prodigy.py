"""Prodigy: Adam that estimates its own rate from how far it has come.

Mishchenko and Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", 2023,
https://arxiv.org/abs/2306.06101
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import beta1, beta2, decoupled_decay, epsilon, setting
from tuner.optimizers.matrix import one_per_slot
from tuner.optimizers.rule import Dims, Hyper, Prior, Rule, Tensors


@register("prodigy")
class Prodigy(Rule):
    """Adam whose rate is ``lr * d``, where d grows with the distance from the start.

    Equations; sums run over the whole model of one slot, ``b`` is Adam's bias correction or 1::

        N = beta3 N + (d / d0) d lr b <g, p0 - p>
        s = beta3 s + (d / d0) d lr b g
        m = beta1 m + (1 - beta1) d g;   v = beta2 v + (1 - beta2) d^2 g^2
        d = max(d, d_coef N / |s|_1)                   (at most growth_rate times the last)
        p = (1 - d lr b weight_decay) p - d lr b m / (sqrt(v) + d eps)

    State: ``exp_avg``, ``exp_avg_sq``, ``s``, ``p0``, one number a coordinate; ``numerator`` (N),
    ``d`` and ``d_max``, one number each, these in units of d0, so that slots may differ in it.

    Differs: the step is that of the authors' package (prodigyopt), which still uses the last d in
    ``d lr b``. ``beta3`` 0 stands for its default, the root of beta2. The ordinary optimizer keeps
    one d for each parameter group (prodigyopt: one for all of them), whose parameters are of one
    type on one device. optax's form differs. A rate of 0 leaves everything as it is.

    Args:
        decoupled: Whether decay shrinks the weights or is added to the gradient.
        use_bias_correction: Whether b is ``sqrt(1 - beta2^t) / (1 - beta1^t)`` instead of 1.
        safeguard_warmup: Whether ``lr b`` is left out of s, against large d after warm-up.
        growth_rate: The most that d may grow by in a step.
    """

    summary = "Adam that estimates its own rate; leave lr at 1."
    when = "When there is no time to tune the rate."
    formula = "d = max(d, <g, p0 - p> / |s|_1); Adam with rate d lr"
    reference = (
        "Prodigy: An Expeditiously Adaptive Parameter-Free Learner",
        2023,
        "https://arxiv.org/abs/2306.06101",
    )
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "model"
    state = ("exp_avg", "exp_avg_sq", "s", "p0", "numerator", "d", "d_max")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": Hyper(
            1.0,
            low=0.0,
            search=(0.1, 10.0),
            log=True,
            prior=Prior(1.0, 0.3, "Mishchenko and Defazio, 2023: leave it at 1"),
            doc="multiplies the estimated rate",
        ),
        "beta1": beta1(0.9),
        "beta2": beta2(0.999),
        "beta3": setting(0.0, high=1.0, open_high=True, doc="decay of the sums; 0: root of beta2"),
        "eps": epsilon(1e-8),
        "weight_decay": decoupled_decay(),
        "d0": setting(1e-6, open_low=True, doc="first estimate of the distance"),
        "d_coef": setting(1.0, open_low=True, doc="multiplies the estimate"),
    }

    def __init__(
        self,
        *,
        decoupled: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        growth_rate: float = float("inf"),
    ) -> None:
        self.decoupled = decoupled
        self.use_bias_correction = use_bias_correction
        self.safeguard_warmup = safeguard_warmup
        self.growth_rate = growth_rate

    @override
    def init(self, p: Tensor, dims: Dims) -> dict[str, Tensor]:
        zero = one_per_slot(p, dims)
        fresh = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq", "s")}
        return fresh | {"p0": p.clone(), "numerator": zero, "d": zero + 1, "d_max": zero + 1}

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step + 1
        bias = (1 - h["beta2"] ** t).sqrt() / (1 - h["beta1"] ** t)
        return {
            "rate": h["lr"] * bias if self.use_bias_correction else h["lr"],
            "beta1": h["beta1"],
            "beta2": h["beta2"],
            "beta3": torch.where(h["beta3"] > 0, h["beta3"], h["beta2"].sqrt()),
            "eps": h["eps"],
            "decay": h["weight_decay"],
            "d0": h["d0"],
            "d_coef": h["d_coef"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.decoupled:
            g = torch.addcmul(g, p, c["decay"])
        ratio = state["d"]
        d, rate = ratio * c["d0"], c["rate"]
        travelled = (g * (state["p0"] - p)).sum(dims, keepdim=True)
        numerator = state["numerator"] * c["beta3"] + ratio * d * rate * travelled
        m = state["exp_avg"] * c["beta1"] + g * (d * (1 - c["beta1"]))
        v = state["exp_avg_sq"] * c["beta2"] + g * g * (d * d * (1 - c["beta2"]))
        s = state["s"] * c["beta3"] + g * (ratio * d * (1 if self.safeguard_warmup else rate))
        below = s.abs().sum(dims, keepdim=True)
        # In units of d0, as the state is.
        estimate = c["d_coef"] * numerator / (below * c["d0"])
        first = torch.where(ratio == 1, torch.maximum(ratio, estimate), ratio)
        most = torch.maximum(state["d_max"], estimate)
        grown = torch.minimum(most, first * self.growth_rate)
        now = grown * c["d0"]
        moved = p - d * rate * (m / (v.sqrt() + now * c["eps"]))
        if self.decoupled:
            moved = moved - p * (c["decay"] * d * rate)
        new = {
            "exp_avg": m,
            "exp_avg_sq": v,
            "s": s,
            "p0": state["p0"],
            "numerator": numerator,
            "d": grown,
            "d_max": most,
        }
        # Nothing has been learnt where the rate is 0, or no gradient has been seen at all; written
        # so that a NaN is not mistaken for either.
        idle = (rate <= 0) | (below <= 0)
        kept = {name: torch.where(idle, state[name], value) for name, value in new.items()}
        return torch.where(idle, p, moved), kept
