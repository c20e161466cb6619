"""The search space: parameters, conditions, the unit cube, Optuna's distributions."""

from tuner.spaces.options import Option, read_options
from tuner.spaces.parameters import (
    Categorical,
    Condition,
    Constant,
    Float,
    Int,
    Parameter,
    Prior,
    Scalar,
    Searched,
)
from tuner.spaces.space import Space
from tuner.spaces.widen import widen

__all__ = [
    "Categorical",
    "Condition",
    "Constant",
    "Float",
    "Int",
    "Option",
    "Parameter",
    "Prior",
    "Scalar",
    "Searched",
    "Space",
    "read_options",
    "widen",
]
