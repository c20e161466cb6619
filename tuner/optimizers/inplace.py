"""One step of a rule as a whole: wide arithmetic, results written back."""

from __future__ import annotations

from torch import Tensor

from tuner.optimizers.coefficients import working_dtype
from tuner.optimizers.rule import Dims, Rule, Tensors


def step_(rule: Rule, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims) -> None:
    """One whole step: compute wide, write back."""
    for name, new in updated(rule, p, g, state, c, dims).items():
        (p if name == "" else state[name]).copy_(new)


def updated(
    rule: Rule, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims
) -> dict[str, Tensor]:
    """New tensors by state name, the parameters under the empty name."""
    work = working_dtype(p.dtype)
    wide = {name: s.to(work) for name, s in state.items()}
    wide_c = {name: value.to(work) for name, value in c.items()}
    new_p, new = rule.update(p.to(work), g.to(work), wide, wide_c, dims)
    return {"": new_p, **new}
