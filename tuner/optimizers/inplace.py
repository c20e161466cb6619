"""One step of a rule as a whole: wide arithmetic, masked slots kept, results written back."""

from __future__ import annotations

import torch
from torch import Tensor

from tuner.optimizers.coefficients import working_dtype
from tuner.optimizers.rule import Dims, Rule, Tensors


def step_(
    rule: Rule, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims, mask: Tensor | None
) -> None:
    """One whole step: compute wide, keep masked slots, write back."""
    for name, new in updated(rule, p, g, state, c, dims, mask).items():
        (p if name == "" else state[name]).copy_(new)


def updated(
    rule: Rule, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims, mask: Tensor | None
) -> dict[str, Tensor]:
    """New tensors by state name, the parameters under the empty name."""
    work = working_dtype(p.dtype)
    wide = {name: s.to(work) for name, s in state.items()}
    wide_c = {name: value.to(work) for name, value in c.items()}
    new_p, new = rule.update(p.to(work), g.to(work), wide, wide_c, dims)
    new = {"": new_p, **new}
    if mask is not None:
        old = {"": p, **state}
        for name, value in new.items():
            kept = mask.reshape(-1, *(1,) * (value.ndim - 1))
            new[name] = torch.where(kept, value, old[name].to(value.dtype))
    return new
