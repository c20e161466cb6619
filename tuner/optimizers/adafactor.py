"""Adafactor: Adam without momentum, its second moment factored into rows and columns.

Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018,
https://arxiv.org/abs/1804.04235
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import decoupled_decay, log_lr, setting
from tuner.optimizers.matrix import lead, norm
from tuner.optimizers.rule import Dims, Hyper, Rule, Tensors


@register("adafactor")
class Adafactor(Rule):
    """Steps in units of each tensor's own size, with a second moment of ``rows + columns`` numbers.

    Equations (t counts from 1; RMS over one parameter tensor of one slot)::

        k = t^beta2_decay;   rho = min(lr, 1 / sqrt(t));   alpha = max(eps2, RMS(p)) rho
        p = (1 - lr weight_decay) p
        R = (1 - k) R + k mean_columns(g^2);   C = (1 - k) C + k mean_rows(g^2)
        V = R C / max(mean(R), eps1)                  (vectors: V = (1 - k) V + k g^2)
        u = g / max(sqrt(V), eps1);   p = p - alpha u / max(1, RMS(u) / clip)

    State: ``row`` ``[..., A, 1]`` and ``col`` ``[..., 1, B]`` over the last two axes of a matrix or
    higher, ``variance`` shaped as a vector; the others are empty.

    Differs: as in torch, eps1 guards the quotients instead of being added to g^2, the paper's
    constant 0.01 in rho is ``lr``, and decay is decoupled. torch's eps1 is the machine epsilon of
    the dtype; ours is that of float32. No momentum (the paper's beta1 = 0). timm and
    pytorch-optimizer differ in all of these.
    """

    summary = "Adam without momentum, its second moment factored into rows and columns."
    when = "Scarce memory: large transformers."
    formula = (
        "V = R C / mean R; u = clip(g / sqrt(V)); p = p - max(eps2, RMS p) min(lr, 1/sqrt(t)) u"
    )
    reference = (
        "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
        2018,
        "https://arxiv.org/abs/1804.04235",
    )
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "tensor"
    state = ("row", "col", "variance")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": log_lr(1e-2, 1e-4, 1.0),
        "beta2_decay": setting(
            -0.8, float("-inf"), 0.0, open_high=True, doc="power of t in 1 - beta2"
        ),
        "eps1": setting(1.1920929e-7, open_low=True, doc="guards the quotients"),
        "eps2": setting(1e-3, doc="least size of a tensor, for its step"),
        "clip": setting(1.0, open_low=True, doc="greatest RMS of a step"),
        "weight_decay": decoupled_decay(),
    }

    @override
    def init(self, p: Tensor, dims: Dims) -> dict[str, Tensor]:
        empty = p.new_zeros((*lead(p, dims), *(0 for _ in dims)))
        if len(dims) == 1:
            return {"row": empty, "col": empty.clone(), "variance": torch.zeros_like(p)}
        return {
            "row": p.new_zeros((*p.shape[:-1], 1)),
            "col": p.new_zeros((*p.shape[:-2], 1, p.shape[-1])),
            "variance": empty,
        }

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        t = (step + 1).to(torch.float64)
        return {
            "keep": t ** h["beta2_decay"],
            "rho": torch.minimum(h["lr"], t.rsqrt()),
            "eps1": h["eps1"],
            "eps2": h["eps2"],
            "clip": h["clip"],
            "decay": 1 - h["lr"] * h["weight_decay"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        count = 1
        for axis in dims:
            count *= p.shape[axis]
        alpha = torch.maximum(norm(p, dims) / count**0.5, c["eps2"]) * c["rho"]
        p = p * c["decay"]
        square = g * g
        new = dict(state)
        if len(dims) == 1:
            v = torch.lerp(state["variance"], square, c["keep"])
            new["variance"] = v
        else:
            row = torch.lerp(state["row"], square.mean(-1, keepdim=True), c["keep"])
            col = torch.lerp(state["col"], square.mean(-2, keepdim=True), c["keep"])
            new["row"], new["col"] = row, col
            v = row * col / torch.maximum(row.mean(-2, keepdim=True), c["eps1"])
        u = g / torch.maximum(v, c["eps1"] ** 2).sqrt()
        size = norm(u, dims) / count**0.5
        return p - u * (alpha / (size / c["clip"]).clamp_min(1)), new
