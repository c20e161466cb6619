"""Hyperparameters that many rules share, with the general knowledge of where good values lie.

The centres and spreads were written down before any result was seen: Adam's lr 1e-3 within a
decade, 1 - beta1 near 0.1 within 0.7 decades, 1 - beta2 near 3e-3 within one, eps near 1e-8 within
two; for SGD lr 0.03 within 0.7 decades, momentum 0.9 within 0.2 of its range, decay near 0 within
0.4.
"""

from __future__ import annotations

from tuner.optimizers.rule import Hyper, Prior

COMMON = "common practice, written down before any search was run"


def log_lr(
    default: float, low: float, high: float, spread: float = 1.0, source: str = COMMON
) -> Hyper:
    """A learning rate searched on a log scale around its default."""
    return Hyper(
        default,
        low=0.0,
        search=(low, high),
        log=True,
        prior=Prior(default, spread, source),
        doc="learning rate",
    )


def decay_rate(
    default: float,
    search: tuple[float, float] | None,
    center: float,
    spread: float,
    doc: str,
    source: str = COMMON,
) -> Hyper:
    """The decay rate of a moving average, searched by the logarithm of its complement."""
    return Hyper(
        default,
        low=0.0,
        high=1.0,
        open_high=True,
        search=search,
        log=search is not None,
        complement=search is not None,
        prior=Prior(center, spread, source, of="complement"),
        doc=doc,
    )


def beta1(default: float, source: str = COMMON) -> Hyper:
    """The decay rate of the gradient's moving average."""
    return decay_rate(default, (0.7, 0.99), default, 0.7, "decay of the gradient's mean", source)


def beta2(default: float, center: float = 0.997, source: str = COMMON) -> Hyper:
    """The decay rate of the squared gradient's moving average."""
    return decay_rate(default, (0.9, 0.9999), center, 1.0, "decay of the squared gradient", source)


def epsilon(default: float, *, searched: bool = True) -> Hyper:
    """The small number that keeps a quotient finite."""
    return Hyper(
        default,
        low=0.0,
        open_low=True,  # with 0, a coordinate that has seen no gradient becomes NaN
        search=(default * 1e-2, default * 1e2) if searched else None,
        log=searched,
        prior=Prior(default, 2.0, COMMON) if searched else None,
        doc="added to the denominator",
    )


def coupled_decay() -> Hyper:
    """Decay that is added to the gradient (L2)."""
    return Hyper(
        0.0,
        low=0.0,
        search=(1e-7, 1e-2),
        log=True,
        prior=Prior(1e-6, 1.5, COMMON),
        doc="L2 term, added to the gradient",
    )


def decoupled_decay(default: float = 0.0) -> Hyper:
    """Decay that shrinks the weights by ``lr * weight_decay`` a step."""
    return Hyper(
        default,
        low=0.0,
        search=(1e-4, 1.0),
        log=True,
        prior=Prior(1e-2, 1.0, COMMON),
        doc="weights shrink by lr x this, a step",
    )


def switch(default: bool, doc: str) -> Hyper:
    """0 or 1, so that it too can differ between the slots of a population."""
    return Hyper(float(default), low=0.0, high=1.0, doc=doc + " (0 or 1)")


def setting(
    default: float,
    low: float = 0.0,
    high: float = float("inf"),
    *,
    open_low: bool = False,
    open_high: bool = False,
    doc: str,
) -> Hyper:
    """A number that the default search leaves alone."""
    return Hyper(default, low=low, high=high, open_low=open_low, open_high=open_high, doc=doc)
