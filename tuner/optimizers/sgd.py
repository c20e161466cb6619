"""Stochastic gradient descent, with heavy-ball or Nesterov momentum.

Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013,
https://proceedings.mlr.press/v28/sutskever13.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from tuner.optimizers import register
from tuner.optimizers.hyper import log_lr, setting, switch
from tuner.optimizers.rule import Dims, Hyper, Prior, Rule, Tensors

_KNOWN = "common practice, written down before any search was run"


@register("sgd")
class SGD(Rule):
    """Steps against the gradient, or against its decaying sum.

    Equations::

        g = g + weight_decay p                                    (coupled; not with decoupled)
        b = momentum b + (1 - dampening) g                        (the first step: b = g)
        p = p - lr (b, or g + momentum b with nesterov)

    State: ``momentum_buffer``, shaped as the parameter; it is kept even where momentum is 0, since
    slots of one population may differ in it.

    Differs: as in torch, the rate multiplies the buffer on its way out, where Sutskever et al. and
    Keras put it into the velocity; the two part when the rate changes (Goyal et al., 2017, section
    3). As in torch, dampening skips the first step and means nothing without momentum. Unlike torch
    we accept nesterov with dampening: the equations above say what it does.

    Args:
        decoupled: Whether decay shrinks the weights (SGDW) or is added to the gradient.
    """

    summary = "Steps against the gradient; momentum, Nesterov and dampening are settings."
    when = "Convolutional networks with a tuned schedule; the plain baseline."
    formula = "b = mu b + (1 - tau) g; p = p - lr b"
    reference = (
        "On the importance of initialization and momentum in deep learning",
        2013,
        "https://proceedings.mlr.press/v28/sutskever13.html",
    )
    state = ("momentum_buffer",)
    hyper: ClassVar[Mapping[str, Hyper]] = {
        "lr": replace(log_lr(1e-2, 1e-4, 1.0), prior=Prior(0.03, 0.7, _KNOWN)),
        "momentum": Hyper(
            0.0,
            low=0.0,
            high=1.0,
            open_high=True,
            search=(0.0, 0.99),
            prior=Prior(0.9, 0.2, _KNOWN),
            doc="decay of the gradient's sum",
        ),
        "nesterov": switch(False, "step against g + momentum b"),
        "dampening": setting(0.0, high=1.0, doc="part of the gradient kept out of the sum"),
        "weight_decay": Hyper(
            0.0,
            low=0.0,
            search=(0.0, 1e-2),
            prior=Prior(0.0, 0.4, _KNOWN),
            doc="L2 term, added to the gradient",
        ),
    }

    def __init__(self, *, decoupled: bool = False) -> None:
        self.decoupled = decoupled

    @override
    def coefficients(self, h: Tensors, step: Tensor) -> dict[str, Tensor]:
        momentum, nesterov = h["momentum"], h["nesterov"]
        undamped = (step == 0) | (momentum == 0)
        return {
            "momentum": momentum,
            "gain": torch.where(undamped, torch.ones_like(momentum), 1 - h["dampening"]),
            "step_g": -h["lr"] * nesterov,
            "step_b": -h["lr"] * (nesterov * momentum + 1 - nesterov),
            "decay": 1 - h["lr"] * h["weight_decay"] if self.decoupled else h["weight_decay"],
        }

    @override
    def update(
        self, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.decoupled:
            g = torch.addcmul(g, p, c["decay"])
        b = torch.addcmul(g * c["gain"], state["momentum_buffer"], c["momentum"])
        if self.decoupled:
            p = p * c["decay"]
        p = torch.addcmul(torch.addcmul(p, b, c["step_b"]), g, c["step_g"])
        return p, {"momentum_buffer": b}


@register("momentum")
class Momentum(SGD):
    """:class:`SGD` with heavy-ball momentum 0.9 (Polyak, 1964)."""

    summary = "SGD with heavy-ball momentum 0.9."
    hyper: ClassVar[Mapping[str, Hyper]] = {
        **SGD.hyper,
        "momentum": replace(SGD.hyper["momentum"], default=0.9),
    }


@register("nag")
class NAG(SGD):
    """:class:`SGD` with Nesterov momentum 0.9 (1983, as rewritten by Sutskever et al.)."""

    summary = "SGD with Nesterov momentum 0.9."
    formula = "b = mu b + g; p = p - lr (g + mu b)"
    hyper: ClassVar[Mapping[str, Hyper]] = {
        **Momentum.hyper,
        "nesterov": replace(SGD.hyper["nesterov"], default=1.0),
    }
