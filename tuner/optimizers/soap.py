"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024,
https://arxiv.org/abs/2409.11321
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import beta1, beta2, decoupled_decay, epsilon, log_lr, setting
from tuner.optimizers.matrix import as_matrix, eigh, flagged, lead, per_slot, replaced, sides
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors

_PAPER = "Vyas et al., 2024, section 5"


@register("soap")
class SOAP(Rule):
    """Rotates the gradient into slowly turning eigenbases, and runs Adam there.

    Equations for a tensor of two axes or more, seen as a matrix ``[first, rest]``; t counts the
    steps after the first, which only fills L and R and takes their eigenvectors::

        g~ = Ql^T g Qr;   m = EMA(g, beta1);   v = EMA(g~^2, beta2)
        u = Ql [ (Ql^T m Qr) / (sqrt(v) + eps) ] Qr^T * sqrt(1 - beta2^t) / (1 - beta1^t)
        p = (1 - lr weight_decay) (p - lr u)
        L = EMA(g g^T, shampoo_beta);   R = EMA(g^T g, shampoo_beta)

    Every ``refresh`` steps the bases take one power iteration (QR of L Ql), sorted by eigenvalue,
    and v is sorted with them. A side longer than ``max_side`` keeps the identity; vectors and
    scalars get plain Adam (and skip the first step with the rest).

    State: ``exp_avg``, ``exp_avg_sq``, shaped as the parameter; ``left``, ``left_basis`` ``[...,
    rows, rows]`` and ``right``, ``right_basis``, empty where there are none.

    Differs: convolutions are matrices (the authors' ``merge_dims``); the QR runs in the parameters'
    type, where pytorch-optimizer casts to float32. As in the authors' code, eps is added to the
    uncorrected root and both corrections go into the rate.

    Args:
        max_side: The longest side that gets a basis of its own.
    """

    summary = "Adam in the eigenbasis of Shampoo's preconditioner."
    when = "Transformers, when steps matter more than seconds."
    formula = "p = (1 - lr wd) (p - lr Ql Adam(Ql^T g Qr) Qr^T)"
    reference = (
        "SOAP: Improving and Stabilizing Shampoo using Adam",
        2024,
        "https://arxiv.org/abs/2409.11321",
    )
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "tensor"
    flags = ("first", "refresh")
    state = ("exp_avg", "exp_avg_sq", "left", "left_basis", "right", "right_basis")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(3e-3, 1e-5, 1e-1, source=_PAPER),
        "beta1": beta1(0.95, _PAPER),
        "beta2": beta2(0.95, 0.95, _PAPER),
        "shampoo_beta": setting(0.95, high=1.0, open_high=True, doc="decay of L and R"),
        "eps": epsilon(1e-8),
        "refresh": setting(10.0, low=1.0, doc="steps between bases"),
        "weight_decay": decoupled_decay(0.01),
    }

    def __init__(self, *, max_side: int = 2048) -> None:
        self.max_side = max_side

    @override
    def init(self, p: Tensor, dims: Dims) -> dict[str, Tensor]:
        slots = lead(p, dims)
        rows, columns = (0, 0) if len(dims) == 1 else sides(p, dims)
        left, right = (n if n <= self.max_side else 0 for n in (rows, columns))
        return {
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
            "left": p.new_zeros((*slots, left, left)),
            "left_basis": p.new_zeros((*slots, left, left)),
            "right": p.new_zeros((*slots, right, right)),
            "right_basis": p.new_zeros((*slots, right, right)),
        }

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = step.clamp_min(1)
        started = (step > 0).to(torch.float64)
        root = (1 - h["beta2"] ** t).sqrt()
        due = (step % h["refresh"].round() == 0).to(torch.float64)
        return {
            "keep1": (1 - h["beta1"]) * started,
            "keep2": (1 - h["beta2"]) * started,
            "keep3": 1 - h["shampoo_beta"],
            "eps": h["eps"],
            "step_size": -h["lr"] * started * root / (1 - h["beta1"] ** t),
            "decay": 1 - h["lr"] * h["weight_decay"] * started,
            "first": 1 - started,
            "refresh": due * started,
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        m = torch.lerp(state["exp_avg"], g, c["keep1"])
        new = {**state, "exp_avg": m}
        if len(dims) == 1:
            v = torch.lerp(state["exp_avg_sq"], g * g, c["keep2"])
            u = m / (v.sqrt() + c["eps"])
        else:
            matrix, batch = as_matrix(g, dims), lead(p, dims)
            bases = {s: _batched(state[f"{s}_basis"], matrix) for s in ("left", "right")}
            rotated = _rotate(matrix, bases)
            v = torch.lerp(
                as_matrix(state["exp_avg_sq"], dims), rotated * rotated, per_slot(c["keep2"])
            )
            u = _rotate(as_matrix(m, dims), bases) / (v.sqrt() + per_slot(c["eps"]))
            u = _rotate(u, bases, back=True).reshape(p.shape)
            v = _turned(matrix, v, bases, state, new, c)
            v = v.reshape(*batch, *(p.shape[axis] for axis in dims))
        new["exp_avg_sq"] = v
        return torch.addcmul(p, u, c["step_size"]) * c["decay"], new


def _turned(
    g: Tensor, v: Tensor, bases: Tensors, state: Tensors, new: dict[str, Tensor], c: Tensors
) -> Tensor:
    """Enters the new moments and bases in ``new``; gives ``v`` in the order of the bases."""
    used = [side for side in ("left", "right") if bases[side].numel()]
    if not used:
        return v
    first, due = (flagged(c[name], g) for name in ("first", "refresh"))
    for side in used:
        square = g @ g.mT if side == "left" else g.mT @ g
        moment = torch.lerp(_batched(state[side], g), square, per_slot(c["keep3"]))
        basis = replaced(first, bases[side], moment, _eigenvectors)
        if due.numel():
            basis, order = _iterated(due, moment, basis)
            axis, index = (-2, order.unsqueeze(-1)) if side == "left" else (-1, order.unsqueeze(-2))
            v = v.index_copy(0, due, torch.take_along_dim(v[due], index, axis))
        new[side] = moment.reshape(state[side].shape)
        new[f"{side}_basis"] = basis.reshape(state[side].shape)
    return v


def _iterated(due: Tensor, moment: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """``basis`` one power iteration on for the slots that are due, and their order ``[due, n]``."""
    old = basis[due]
    product = moment[due] @ old
    order = (old * product).sum(-2).argsort(stable=True, dim=-1, descending=True)
    product = torch.take_along_dim(product, order.unsqueeze(-2), -1)
    return basis.index_copy(0, due, torch.linalg.qr(product)[0]), order


def _eigenvectors(moment: Tensor) -> Tensor:
    """Columns by falling eigenvalue."""
    return eigh(moment)[1].flip(-1)


def _batched(square: Tensor, like: Tensor) -> Tensor:
    return square.reshape(like.shape[0], *square.shape[-2:])


def _rotate(x: Tensor, bases: Mapping[str, Tensor], *, back: bool = False) -> Tensor:
    """``Ql^T x Qr``, or ``Ql x Qr^T`` back; a side without a basis is left alone."""
    left, right = bases["left"], bases["right"]
    if left.numel():
        x = (left if back else left.mT) @ x
    if right.numel():
        x = x @ (right.mT if back else right)
    return x
