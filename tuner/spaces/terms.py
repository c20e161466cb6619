"""A parameter in other terms: the study file's, Optuna's, and words."""

from __future__ import annotations

import itertools
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tuner.spaces.parameters import Categorical, Constant, Float, Int, Parameter, Prior, Searched


def written(p: Parameter) -> Any:
    """The study file's form; what it need not say is left out."""
    when = {k: list(v) if len(v) != 1 else v[0] for k, v in p.when.items()}
    if isinstance(p, Constant):
        return {"type": "constant", "value": p.value, "when": when} if when else p.value
    out: dict[str, Any]
    if isinstance(p, Categorical):
        out = {"type": "categorical", "choices": list(p.choices)}
    else:
        out = {"type": "float" if isinstance(p, Float) else "int", "low": p.low, "high": p.high}
        if p.log:
            out["log"] = True
        if p.step is not None and not (isinstance(p, Int) and p.step == 1):
            out["step"] = p.step
        if p.prior == "none":
            out["prior"] = "none"
        elif isinstance(p.prior, Prior):
            out["prior"] = {"center": p.prior.center, "spread": p.prior.spread}
            if p.prior.scale != ("log" if p.log else "linear"):
                out["prior"]["scale"] = p.prior.scale
    if p.default is not None:
        out["default"] = p.default
    if when:
        out["when"] = when
    return out


def distribution(p: Searched) -> BaseDistribution:
    """The parameter as Optuna knows it."""
    if isinstance(p, Float):
        return FloatDistribution(p.low, p.high, log=p.log, step=p.step)
    if isinstance(p, Int):
        return IntDistribution(p.low, p.high, log=p.log, step=p.step)
    return CategoricalDistribution(p.choices)


def said(p: Parameter) -> str:
    """Its condition, in words."""
    return "when " + " and ".join(
        f"{parent} is {' or '.join(map(str, values))}" for parent, values in p.when.items()
    )


def legal(p: Searched) -> str:
    """Its values, in words."""
    if isinstance(p, Categorical):
        return "one of " + ", ".join(repr(c) for c in itertools.islice(p.choices, 20))
    noun = "a whole number" if isinstance(p, Int) else "a number"
    step = f" in steps of {p.step}" if p.step is not None and p.step != 1 else ""
    return f"{noun} in [{p.low}, {p.high}]{step}"
