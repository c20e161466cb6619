"""Adam: steps by the gradient's running mean over its running root mean square.

Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014, https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import beta1, beta2, coupled_decay, epsilon, log_lr
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors


@register("adam")
class Adam(Rule):
    """Steps each coordinate by the ratio of two bias-corrected moving averages.

    Equations (t counts from 1)::

        g = g + weight_decay p                                    (coupled; not with decoupled)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    State: ``exp_avg``, ``exp_avg_sq`` (``max_exp_avg_sq`` with amsgrad), shaped as the parameter.

    Differs: the step is written ``lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps
    sqrt(1 - beta2^t))``, equal to the paper's Algorithm 1 (and torch, optax) with one operation
    less. Keras adds ``eps`` to the uncorrected root (the paper's "epsilon hat", 1e-7): not ours.

    Args:
        decoupled: Whether decay shrinks the weights (as in AdamW) or is added to the gradient.
        amsgrad: Whether the denominator uses the greatest ``v`` so far; the maximum is taken before
            the bias correction, as in torch and Keras (optax takes it after).
    """

    summary = "Running mean over running root mean square of the gradient."
    when = "Where plain L2 regularisation is wanted; else AdamW."
    formula = "p = p - lr m^ / (sqrt(v^) + eps); g includes wd p"
    reference = (
        "Adam: A Method for Stochastic Optimization",
        2014,
        "https://arxiv.org/abs/1412.6980",
    )
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-3, 1e-5, 1e-1),
        "beta1": beta1(0.9),
        "beta2": beta2(0.999),
        "eps": epsilon(1e-8),
        "weight_decay": coupled_decay(),
    }

    def __init__(self, *, decoupled: bool = False, amsgrad: bool = False) -> None:
        self.decoupled = decoupled
        self.amsgrad = amsgrad
        self.state = ("exp_avg", "exp_avg_sq") + (("max_exp_avg_sq",) if amsgrad else ())

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step + 1
        root = (1 - h["beta2"] ** t).sqrt()
        decay = 1 - h["lr"] * h["weight_decay"] if self.decoupled else h["weight_decay"]
        return {
            "keep1": 1 - h["beta1"],
            "keep2": 1 - h["beta2"],
            "step_size": -h["lr"] * root / (1 - h["beta1"] ** t),
            "eps": h["eps"] * root,
            "decay": decay,
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
        new = {"exp_avg": m, "exp_avg_sq": v}
        if self.amsgrad:
            v = torch.maximum(state["max_exp_avg_sq"], v)
            new["max_exp_avg_sq"] = v
        u = self.direction(m / (v.sqrt() + c["eps"]), g, dims)
        return torch.addcmul(p, u, c["step_size"]), new

    def direction(self, u: Tensor, g: Tensor, dims: Dims) -> Tensor:
        """What to step by, given Adam's own direction ``u`` (up to a positive factor)."""
        return u


@register("amsgrad")
class AMSGrad(Adam):
    """:class:`Adam` whose denominator never shrinks.

    Reddi et al., "On the Convergence of Adam and Beyond", 2018, https://arxiv.org/abs/1904.09237.

    Differs: the paper has no bias correction; torch, Keras and we take the maximum of the raw ``v``
    and correct it, optax takes the maximum of corrected ones (0.05 apart after 20 steps).
    """

    summary = "Adam whose denominator never shrinks."
    when = "Where Adam diverges on rare, large gradients."
    formula = "x = max(x, v); p = p - lr m^ / (sqrt(x^) + eps)"
    reference = (
        "On the Convergence of Adam and Beyond",
        2018,
        "https://arxiv.org/abs/1904.09237",
    )

    def __init__(self, *, decoupled: bool = False, amsgrad: bool = True) -> None:
        super().__init__(decoupled=decoupled, amsgrad=amsgrad)
