"""Which rules an optimizer may use: one table, keyed on the names of ``tuner.optimizers``.

A rule of scaling rests on how a step depends on the size of the gradient's noise, and that is a
property of a family, not of a name. So the table says for each name its family, what its weight
decay multiplies, and which hyperparameters are averages; every module of this room asks here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuner.errors import UnknownName

FamilyName = Literal["sgd", "adam", "rmsprop", "sign", "adagrad", "parameter-free"]
DecayForm = Literal["lr", "direct", "preconditioned", "trust-ratio"]

FAMILY_TEXT: dict[FamilyName, str] = {
    "sgd": "steps in proportion to the gradient",
    "adam": "divides an averaged gradient by the root of its averaged square",
    "rmsprop": "divides the gradient by the root of its averaged square",
    "sign": "takes steps whose length does not depend on the gradient's size",
    "adagrad": "divides by the root of a sum of squares that never forgets",
    "parameter-free": "estimates its own step size, which lr only multiplies",
}


@dataclass(frozen=True)
class Traits:
    """What scaling needs to know of one optimizer.

    Attributes:
        family: How a step depends on the gradient.
        decay: What ``weight_decay`` meets: ``lr`` (the weight shrinks by ``lr * weight_decay`` a
            step, also L2 under plain SGD), ``direct`` (by ``weight_decay`` itself),
            ``preconditioned`` (added to the gradient, then divided with it) or ``trust-ratio``
            (inside a layer-wise norm).
        averages: Hyperparameters that are decay rates of averages of the gradient or of its square.
        second_moment: The one of ``averages`` whose horizon bounds warm-up from below; empty
            without one.
        elementwise: Whether the step normalises each coordinate by itself (Li 2024 assumes so).
    """

    family: FamilyName
    decay: DecayForm
    averages: tuple[str, ...] = ()
    second_moment: str = ""
    elementwise: bool = True


_ADAM = ("beta1", "beta2")

TRAITS: dict[str, Traits] = {
    "sgd": Traits("sgd", "lr"),
    "momentum": Traits("sgd", "lr"),
    "nag": Traits("sgd", "lr"),
    "adagrad": Traits("adagrad", "preconditioned"),
    "rmsprop": Traits("rmsprop", "preconditioned", ("beta2",), "beta2"),
    "adam": Traits("adam", "preconditioned", _ADAM, "beta2"),
    "adamw": Traits("adam", "lr", _ADAM, "beta2"),
    "amsgrad": Traits("adam", "preconditioned", _ADAM, "beta2"),
    "nadam": Traits("adam", "preconditioned", _ADAM, "beta2"),
    "adan": Traits("adam", "lr", ("beta1", "beta2", "beta3"), "beta3"),
    "grams": Traits("adam", "lr", _ADAM, "beta2"),
    "cautious_adamw": Traits("adam", "lr", _ADAM, "beta2"),
    "schedule_free_adamw": Traits("adam", "lr", _ADAM, "beta2"),
    "mars": Traits("adam", "lr", _ADAM, "beta2"),
    "ademamix": Traits("adam", "lr", ("beta1", "beta2", "beta3"), "beta2"),
    "soap": Traits("adam", "lr", _ADAM, "beta2", elementwise=False),
    "lamb": Traits("adam", "trust-ratio", _ADAM, "beta2", elementwise=False),
    "adafactor": Traits("rmsprop", "lr"),
    "lion": Traits("sign", "lr", _ADAM),
    "sophia_g": Traits("sign", "lr", _ADAM, "beta2"),
    "sophia_h": Traits("sign", "lr", _ADAM, "beta2"),
    "muon": Traits("sign", "lr", elementwise=False),
    "shampoo": Traits("adagrad", "preconditioned", elementwise=False),
    "lars": Traits("sign", "trust-ratio", elementwise=False),
    "prodigy": Traits("parameter-free", "lr", _ADAM, "beta2"),
}


def traits(optimizer: str) -> Traits:
    """The traits of an optimizer by its registry name.

    Raises:
        UnknownName: The advisor has no traits of that name, so no rule of scaling is known to hold.
    """
    try:
        return TRAITS[optimizer]
    except (KeyError, TypeError):
        raise UnknownName(
            "optimizer with a known scaling rule", optimizer, sorted(TRAITS), "optimizer"
        ) from None
