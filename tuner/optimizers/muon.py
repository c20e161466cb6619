"""Muon: momentum with its singular values evened out.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.optimizers import register
from tuner.optimizers.hyper import (
    beta1,
    beta2,
    decoupled_decay,
    epsilon,
    log_lr,
    setting,
    switch,
)
from tuner.optimizers.matrix import as_matrix, orthogonalize, sides
from tuner.optimizers.rule import Dims, Hyper, Prior, Rule, Tensors

_PAPER = "Jordan et al., 2024"


@register("muon")
class Muon(Rule):
    """Steps matrices by an orthogonal matrix near their momentum, all else by AdamW.

    Equations for a tensor of two axes or more, seen as ``[first, rest]``::

        b = momentum b + (1 - momentum) g
        o = NewtonSchulz5(b, or momentum b + (1 - momentum) g with nesterov)
        p = (1 - lr weight_decay) p - lr scale o
        scale = sqrt(max(1, rows / columns))              (or 0.2 sqrt(max(rows, columns)))

    Vectors and scalars get AdamW with rate ``lr * adam_lr_ratio`` and beta1, beta2, eps. State:
    ``momentum_buffer`` (AdamW's mean for vectors), shaped as the parameter; ``exp_avg_sq``, so
    shaped for vectors and empty for matrices.

    Differs: the authors flatten convolutions as we do, torch takes matrices alone. The iteration
    runs in float32 or wider, not bfloat16: 1.3e-3 from torch and pytorch-optimizer. optax
    corrects the momentum's bias; Keras scales by ``0.2 sqrt(max)``. The authors advise AdamW for
    embeddings and the output layer too; a shape cannot tell those, so give them an optimizer of
    their own.

    Args:
        scale: ``original`` or ``match_rms`` (Liu et al., 2025, https://arxiv.org/abs/2502.16982: so
            scaled, AdamW's rate and decay carry over).
    """

    summary = "Momentum with its singular values evened out; AdamW for vectors."
    when = "Hidden layers of transformers and convolutional networks."
    formula = "p = (1 - lr wd) p - lr sqrt(max(1, A/B)) NS5(g + mu (b - g))"
    reference = (
        "Muon: An optimizer for hidden layers in neural networks",
        2024,
        "https://kellerjordan.github.io/posts/muon/",
    )
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "tensor"
    state = ("momentum_buffer", "exp_avg_sq")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(0.02, 1e-4, 0.3, 0.7, _PAPER),
        "momentum": Hyper(
            0.95,
            low=0.0,
            high=1.0,
            open_high=True,
            search=(0.8, 0.99),
            log=True,
            complement=True,
            prior=Prior(0.95, 0.4, _PAPER, of="complement"),
            doc="decay of the gradient's mean",
        ),
        "nesterov": switch(True, "orthogonalize the mean one step ahead"),
        "weight_decay": decoupled_decay(0.1),
        "adam_lr_ratio": setting(0.015, doc="rate of vectors, in units of lr"),
        "beta1": beta1(0.9),
        "beta2": beta2(0.95),
        "eps": epsilon(1e-8, searched=False),
    }

    def __init__(self, *, scale: str = "original") -> None:
        if scale not in ("original", "match_rms"):
            raise InvalidInput("scale", f"{scale!r} is neither 'original' nor 'match_rms'")
        self.scale = scale

    @override
    def init(self, p: Tensor, dims: Dims) -> dict[str, Tensor]:
        vector = len(dims) == 1
        square = torch.zeros_like(p) if vector else p.new_zeros((*p.shape[: -len(dims)], 0))
        return {"momentum_buffer": torch.zeros_like(p), "exp_avg_sq": square}

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step + 1
        root = (1 - h["beta2"] ** t).sqrt()
        vector_lr = h["lr"] * h["adam_lr_ratio"]
        return {
            "keep": 1 - h["momentum"],
            "ahead": h["nesterov"] * h["momentum"] + 1 - h["nesterov"],
            "lr": h["lr"],
            "decay": 1 - h["lr"] * h["weight_decay"],
            "keep1": 1 - h["beta1"],
            "keep2": 1 - h["beta2"],
            "vector_step": -vector_lr * root / (1 - h["beta1"] ** t),
            "vector_eps": h["eps"] * root,
            "vector_decay": 1 - vector_lr * h["weight_decay"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if len(dims) == 1:
            m = torch.lerp(state["momentum_buffer"], g, c["keep1"])
            v = torch.lerp(state["exp_avg_sq"], g * g, c["keep2"])
            u = m / (v.sqrt() + c["vector_eps"])
            p = torch.addcmul(p * c["vector_decay"], u, c["vector_step"])
            return p, {"momentum_buffer": m, "exp_avg_sq": v}
        b = torch.lerp(state["momentum_buffer"], g, c["keep"])
        rows, columns = sides(p, dims)
        scale = sqrt(max(1, rows / columns))
        if self.scale == "match_rms":
            scale = 0.2 * sqrt(max(rows, columns))
        u = orthogonalize(as_matrix(torch.lerp(g, b, c["ahead"]), dims)).reshape(p.shape)
        p = torch.addcmul(p * c["decay"], u, c["lr"], value=-scale)
        return p, {"momentum_buffer": b, "exp_avg_sq": state["exp_avg_sq"]}
