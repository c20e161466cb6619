"""Adam's step with decoupled weight decay.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2017,
https://arxiv.org/abs/1711.05101
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tuner.optimizers import register
from tuner.optimizers.adam import Adam
from tuner.optimizers.hyper import decoupled_decay
from tuner.optimizers.rule import Hyper


@register("adamw")
class AdamW(Adam):
    """:class:`~tuner.optimizers.adam.Adam` whose decay does not pass through the moments.

    Equations::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = (1 - lr weight_decay) p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    State: ``exp_avg``, ``exp_avg_sq`` (``max_exp_avg_sq`` with amsgrad), shaped as the parameter.

    Differs: the paper multiplies decay by the schedule but not by the base rate; as torch and
    optax do, we multiply by the scheduled ``lr``, so halving ``lr`` halves the decay. The default
    decay is torch's 0.01 (optax 1e-4, Keras 4e-3).
    """

    summary = "Adam with decoupled weight decay; the usual first choice."
    when = "First choice for most networks."
    formula = "p = (1 - lr wd) p - lr m^ / (sqrt(v^) + eps)"
    reference = ("Decoupled Weight Decay Regularization", 2017, "https://arxiv.org/abs/1711.05101")
    hyper: ClassVar[Mapping[str, Hyper]] = {
        **Adam.hyper,
        "weight_decay": decoupled_decay(0.01),
    }

    def __init__(self, *, decoupled: bool = True, amsgrad: bool = False) -> None:
        super().__init__(decoupled=decoupled, amsgrad=amsgrad)
