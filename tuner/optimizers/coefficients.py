"""Coefficients ahead of need: many steps in one call, in the type and place the kernel wants."""

from __future__ import annotations

import torch
from torch import Tensor

from tuner.optimizers.rule import Rule, Tensors

TABLE_STEPS = 64
"""Coefficients of one model are computed for this many steps at once while its settings hold."""

_HALF = (torch.bfloat16, torch.float16)


def coefficient_table(
    rule: Rule, hyper: Tensors, step: Tensor, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Coefficients for many steps at once, each broadcast to the shape of ``step``.

    Args:
        rule: The formula.
        hyper: Hyperparameters by name, float64, broadcastable with ``step``.
        step: int64, such as ``[S, K]``.
        dtype: That of the parameters; 16-bit ones get float32 coefficients.
        device: Where the coefficients are needed.

    Returns:
        Contiguous tensors shaped as ``step``, all cut from one transfer to ``device``, which nobody
        waits for; but for the rule's ``flags``, which stay on the host.
    """
    table = rule.coefficients(hyper, step)
    rows = [value.to(torch.float64).expand(step.shape) for value in table.values()]
    stacked = torch.stack(rows).to(working_dtype(dtype))
    here, there = stacked.unbind(), stacked.to(device, non_blocking=True).unbind()
    return {name: here[i] if name in rule.flags else there[i] for i, name in enumerate(table)}


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which parameters of ``dtype`` are updated: float32 for 16-bit ones."""
    return torch.float32 if dtype in _HALF else dtype


class CoefficientRows:
    """Coefficients of one model, step by step, ahead of need while its settings do not change."""

    def __init__(self, rule: Rule, dtype: torch.dtype, device: torch.device) -> None:
        self.rule, self.dtype, self.device = rule, dtype, device
        self.hyper: tuple[float, ...] = ()
        self.start = 0
        self.rows: list[dict[str, Tensor]] = []

    def row(self, hyper: tuple[float, ...], step: int) -> dict[str, Tensor]:
        """Those of one step, 0-d; ``hyper`` in the order of ``rule.hyper``."""
        same = hyper == self.hyper
        if not (same and self.start <= step < self.start + len(self.rows)):
            count = TABLE_STEPS if same else 1  # a scheduled rate changes at every step
            steps = torch.arange(step, step + count)
            values = torch.tensor(hyper, dtype=torch.float64).unbind()
            named = dict(zip(self.rule.hyper, values, strict=True))
            table = coefficient_table(self.rule, named, steps, self.dtype, self.device)
            columns = {name: column.unbind() for name, column in table.items()}
            self.rows = [{n: column[i] for n, column in columns.items()} for i in range(count)]
            self.hyper, self.start = hyper, step
        return self.rows[step - self.start]
