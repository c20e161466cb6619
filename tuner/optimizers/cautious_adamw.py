"""Cautious AdamW: only the coordinates on which momentum and gradient agree.

Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
https://arxiv.org/abs/2411.16085
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.adamw import AdamW
from tuner.optimizers.rule import Dims, Hyper


@register("cautious_adamw")
class CautiousAdamW(AdamW):
    """:class:`~tuner.optimizers.adamw.AdamW` that leaves out steps against the present gradient.

    Equations, with u AdamW's direction::

        k = 1[u g > 0]
        p = (1 - lr weight_decay) p - lr u k / max(mean(k), 1e-3)

    The mean is over one parameter tensor (of one slot), so this rule sees tensors whole. State:
    ``exp_avg``, ``exp_avg_sq``, shaped as the parameter.

    Differs: the mean and its floor 1e-3 are those of the authors' code and timm; the paper's
    Algorithm 2 writes ``n / (count + 1)``, which pytorch-optimizer's ``cautious`` flag uses.
    Decay defaults to 0, as in the authors' code.
    """

    summary = "AdamW without the coordinates on which momentum and gradient disagree."
    when = "In place of AdamW, with the same settings, where it oscillates."
    formula = "p = (1 - lr wd) p - lr u 1[ug > 0] / max(mean 1[ug > 0], 1e-3)"
    reference = (
        "Cautious Optimizers: Improving Training with One Line of Code",
        2024,
        "https://arxiv.org/abs/2411.16085",
    )
    granularity: ClassVar[Literal["element", "tensor", "model"]] = "tensor"
    hyper: ClassVar[Mapping[str, Hyper]] = {
        **AdamW.hyper,
        "weight_decay": replace(AdamW.hyper["weight_decay"], default=0.0),
    }

    @override
    def direction(self, u: Tensor, g: Tensor, dims: Dims) -> Tensor:
        agree = (u * g > 0).to(u.dtype)
        return u * (agree / agree.mean(dims, keepdim=True).clamp_min(1e-3))
