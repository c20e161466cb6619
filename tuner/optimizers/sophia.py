"""Sophia: momentum over a clipped estimate of the Hessian's diagonal.

Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
2023, https://arxiv.org/abs/2305.14342
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import (
    beta1,
    decay_rate,
    decoupled_decay,
    epsilon,
    log_lr,
    setting,
)
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors

_PAPER = "Liu et al., 2023, section 3.1"


@register("sophia_h")
class SophiaH(Rule):
    """Steps by momentum over curvature, no coordinate farther than ``lr``.

    Equations; the estimate comes every ``hessian_every`` (10) steps, through :meth:`refresh`::

        m = EMA(g, beta1);   h = EMA(estimate, beta2)
        p = (1 - lr weight_decay) p - lr clip(m / max(gamma h, eps), -1, 1)

    The estimate is Hutchinson's ``v * (H v)`` with v of random signs
    (:func:`tuner.optimizers.curvature.hutchinson`). State: ``exp_avg``, ``hessian``.

    Differs: the paper's v is Gaussian; signs have the same mean and less variance. optax corrects
    the bias of m (``debias``); pytorch-optimizer clips at its ``p`` instead, which is our lr = its
    lr * p, gamma = p.

    Args:
        debias: Whether m is divided by ``1 - beta1^t``.
    """

    summary = "Momentum over a clipped Hessian diagonal, estimated by Hutchinson's probe."
    when = "Language models, where a Hessian-vector product every 10 steps is affordable."
    formula = "p = (1 - lr wd) p - lr clip(m / max(gamma h, eps), +-1)"
    reference = (
        "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
        2023,
        "https://arxiv.org/abs/2305.14342",
    )
    state = ("exp_avg", "hessian")
    needs: ClassVar[Literal["", "gnb", "hutchinson"]] = "hutchinson"
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-4, 1e-6, 1e-2, source=_PAPER),
        "beta1": beta1(0.965, _PAPER),
        "beta2": decay_rate(0.99, (0.9, 0.999), 0.99, 0.7, "decay of the curvature", _PAPER),
        "gamma": setting(0.01, open_low=True, doc="scale of the curvature"),
        "eps": epsilon(1e-12, searched=False),
        "weight_decay": decoupled_decay(0.1),
    }

    def __init__(self, *, debias: bool = False) -> None:
        self.debias = debias

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        shrunk = 1 - h["beta1"] ** (step + 1) if self.debias else torch.ones_like(h["beta1"])
        return {
            "keep1": 1 - h["beta1"],
            "keep2": 1 - h["beta2"],
            "step_size": -h["lr"],
            # m / shrunk / max(gamma h, eps), with the correction on the other side of the bar
            "gamma": h["gamma"] * shrunk,
            "eps": h["eps"] * shrunk,
            "decay": 1 - h["lr"] * h["weight_decay"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        m = torch.lerp(state["exp_avg"], g, c["keep1"])
        u = (m / self.curvature(state["hessian"], c)).clamp(-1, 1)
        return torch.addcmul(p * c["decay"], u, c["step_size"]), {
            "exp_avg": m,
            "hessian": state["hessian"],
        }

    def curvature(self, h: Tensor, c: Tensors) -> Tensor:
        """What momentum is divided by."""
        return torch.maximum(h * c["gamma"], c["eps"])

    @override
    def refresh(self, state: Tensors, estimate: Tensor, c: Tensors) -> dict[str, Tensor]:
        return {"hessian": torch.lerp(state["hessian"], estimate, c["keep2"])}


@register("sophia_g")
class SophiaG(SophiaH):
    """:class:`SophiaH` with the Gauss-Newton-Bartlett estimate.

    Equations; ghat is the gradient of the mean loss of a batch of B under labels drawn from the
    model, and ``B ghat^2`` is what :meth:`refresh` takes::

        h = EMA(B ghat^2, beta2)
        p = (1 - lr weight_decay) p - lr clip(m / (gamma h + eps), -1, 1)

    Differs: the authors' code calls gamma ``rho`` (0.04), keeps B out of h and multiplies it in at
    the step, which is the same while B does not change; its lr is the paper's rho * lr.
    """

    summary = "Momentum over a clipped Hessian diagonal, estimated from sampled labels."
    when = "Classifiers and language models; one more backward pass every 10 steps."
    formula = "p = (1 - lr wd) p - lr clip(m / (gamma h + eps), +-1)"
    needs: ClassVar[Literal["", "gnb", "hutchinson"]] = "gnb"
    hyper: ClassVar[Mapping[str, Hyper]] = {
        **SophiaH.hyper,
        "gamma": replace(SophiaH.hyper["gamma"], default=0.04),
        "eps": epsilon(1e-15, searched=False),
    }

    @override
    def curvature(self, h: Tensor, c: Tensors) -> Tensor:
        return h * c["gamma"] + c["eps"]
