"""Shampoo: gradients whitened from both sides.

Gupta, Koren and Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", 2018,
https://arxiv.org/abs/1802.09568
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import coupled_decay, log_lr, setting
from tuner.optimizers.matrix import (
    as_matrix,
    flagged,
    inverse_root,
    lead,
    per_slot,
    replaced,
    sides,
)
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors
from tuner.optimizers.sgd import SGD


@register("shampoo")
class Shampoo(Rule):
    """Multiplies a matrix's gradient by inverse roots of its accumulated second moments.

    Equations for a tensor of two axes or more, seen as a matrix ``[first, rest]``::

        g = g + weight_decay p                                    (coupled; not with decoupled)
        L = L + g g^T;   R = R + g^T g
        u = (eps I + L)^(-1/4) g (eps I + R)^(-1/4)
        b = momentum b + u;   p = p - lr b

    The roots are taken anew at each step at first, then ever more seldom, from ``refresh**2`` steps
    on every ``refresh``: what L and R have not seen yet is multiplied by ``eps**(-1/2)``, so that
    roots of the first few gradients, kept for ten steps, diverge at any useful rate. A side longer
    than ``max_side`` is left alone, and the other then takes the power -1/2. Vectors and scalars
    take the diagonal form, ``u = g / sqrt(eps + sum g^2)``, which is Adagrad.

    State: ``momentum_buffer``, shaped as the parameter; ``left``, ``left_root`` ``[..., rows,
    rows]`` and ``right``, ``right_root``, empty where that side is left alone; ``sum`` for vectors.

    Differs: the paper treats every axis of a tensor of order k with power -1/(2k), and so does
    pytorch-optimizer, also vectors (a full matrix); convolutions are matrices here, as in the
    authors' later code. Both take roots at each step, or at fixed intervals. The paper's momentum
    is that of the gradient, pytorch-optimizer mixes the gradient with the last step; ours is
    heavy-ball on the preconditioned step.

    Args:
        decoupled: Whether decay shrinks the weights or is added to the gradient.
        max_side: The longest side that gets a matrix of its own.
    """

    summary = "Gradients whitened from both sides."
    when = "Few large matrices, where an eigendecomposition now and then is cheap."
    formula = "L += g g^T; R += g^T g; p = p - lr L^-1/4 g R^-1/4"
    reference = (
        "Shampoo: Preconditioned Stochastic Tensor Optimization",
        2018,
        "https://arxiv.org/abs/1802.09568",
    )
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "tensor"
    flags = ("refresh",)
    state = ("momentum_buffer", "left", "left_root", "right", "right_root", "sum")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-2, 1e-4, 1.0),
        "momentum": replace(SGD.hyper["momentum"], default=0.9),
        "eps": setting(1e-6, open_low=True, doc="added to the second moments"),
        "refresh": setting(10.0, low=1.0, doc="steps between roots, at most"),
        "weight_decay": coupled_decay(),
    }

    def __init__(self, *, decoupled: bool = False, max_side: int = 2048) -> None:
        self.decoupled = decoupled
        self.max_side = max_side

    @override
    def init(self, p: Tensor, dims: Dims) -> dict[str, Tensor]:
        slots = lead(p, dims)
        rows, columns = (0, 0) if len(dims) == 1 else sides(p, dims)
        left, right = (n if n <= self.max_side else 0 for n in (rows, columns))
        empty = p.new_zeros((*slots, *(0 for _ in dims)))
        return {
            "momentum_buffer": torch.zeros_like(p),
            "left": p.new_zeros((*slots, left, left)),
            "left_root": p.new_zeros((*slots, left, left)),
            "right": p.new_zeros((*slots, right, right)),
            "right_root": p.new_zeros((*slots, right, right)),
            "sum": torch.zeros_like(p) if len(dims) == 1 else empty,
        }

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        return {
            "step_size": -h["lr"],
            "momentum": h["momentum"],
            "eps": h["eps"],
            "refresh": (step % self._gap(h["refresh"].round(), step) == 0).to(torch.float64),
            "decay": 1 - h["lr"] * h["weight_decay"] if self.decoupled else h["weight_decay"],
        }

    @staticmethod
    def _gap(most: Tensor, step: Tensor) -> Tensor:
        """Steps between roots by now; the sums change by about as much between any two."""
        return torch.minimum((step / most).floor().clamp(min=1.0), most)

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.decoupled:
            p = p * c["decay"]
        else:
            g = torch.addcmul(g, p, c["decay"])
        new = dict(state)
        if len(dims) == 1:
            new["sum"] = torch.addcmul(state["sum"], g, g)
            u = g / (new["sum"] + c["eps"]).sqrt()
        else:
            u = self._whitened(as_matrix(g, dims), state, new, c).reshape(p.shape)
        b = torch.addcmul(u, state["momentum_buffer"], c["momentum"])
        new["momentum_buffer"] = b
        return torch.addcmul(p, b, c["step_size"]), new

    def _whitened(self, g: Tensor, state: Tensors, new: dict[str, Tensor], c: Tensors) -> Tensor:
        """The preconditioned gradient ``[B, rows, columns]``; enters the new moments in ``new``."""
        u = g
        used = [side for side in ("left", "right") if state[side].numel()]
        if not used:
            return u
        power = partial(inverse_root, root=2 * len(used))
        due = flagged(c["refresh"], g)
        for side in used:
            old = state[side]
            moment = old.reshape(g.shape[0], *old.shape[-2:])
            moment = moment + (g @ g.mT if side == "left" else g.mT @ g)
            eps = per_slot(c["eps"]).expand(g.shape[0], 1, 1)
            ridge = moment + eps * torch.eye(moment.shape[-1], dtype=g.dtype, device=g.device)
            root = replaced(due, state[f"{side}_root"].reshape(moment.shape), ridge, power)
            u = root @ u if side == "left" else u @ root
            new[side], new[f"{side}_root"] = moment.reshape(old.shape), root.reshape(old.shape)
        return u
