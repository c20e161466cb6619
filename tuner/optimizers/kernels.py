"""Runs a rule in place: chunked so that temporaries stay in cache, or compiled into one pass.

Eager PyTorch streams every temporary of a formula through memory. Cut into pieces that fit the
second-level cache, the same operations run out of cache; compiled, they are one loop. Neither
changes the mathematics, which stays in :meth:`tuner.optimizers.rule.Rule.update`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tuner.optimizers.coefficients import coefficient_table, working_dtype
from tuner.optimizers.compiled import GROUP, Item, run_compiled
from tuner.optimizers.inplace import step_, updated
from tuner.optimizers.rule import Dims, Rule, Tensors

__all__ = ["apply_", "apply_all_", "coefficient_table", "working_dtype"]

CHUNK = 131_072
"""Elements a thread works on at a time: its temporaries, half a MiB each in float32, stay in the
last-level cache, and are long enough to outweigh the calls."""
COMPILED_FROM = 2_048
"""Below this many elements a compiled call costs more than it saves."""


def apply_(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    state: Tensors,
    c: Tensors,
    dims: Dims,
    *,
    compiled: bool = False,
) -> None:
    """One step of ``rule``, written into ``p`` and the tensors of ``state`` in place.

    Every slot it is given steps. Where only some step now, they are views of those rows, as in
    :mod:`tuner.training.steps`, where slots that step together lie side by side: the others cost
    nothing and keep their bits, NaN or not.

    Args:
        rule: The formula.
        p: Parameters: a view of a flat ``[K, P]`` (or ``[P]``) buffer, rows cut at will, for
            granularity ``element`` and ``model``; ``[K, *shape]`` (or ``[*shape]``) for ``tensor``.
        g: Gradient, shaped as ``p``; never written.
        state: Buffers by name, as made by ``rule.init``; may be float32 where ``p`` is 16 bits.
        c: Coefficients by name, ``[K, 1, ...]`` or 0-d; for 16-bit parameters give them in
            float32, in which such parameters are updated before they are rounded back.
        dims: The negative axes of ``shape``.
        compiled: Whether to run one compiled pass (element and model rules). Falls back to the
            eager form, once and with a log line, where no compiler works.
    """
    if p.numel() == 0:
        return
    if rule.granularity == "tensor":
        step_(rule, p, g, state, c, dims)
        return
    large = p.numel() >= COMPILED_FROM
    if compiled and large and run_compiled(rule, [(p, g, state)], c, dims):
        return
    _apply_eager(rule, p, g, state, c, dims)


def apply_all_(rule: Rule, items: Sequence[Item], c: Tensors, *, compiled: bool = False) -> None:
    """One step of several flat tensors ``[P]`` of one model that share their coefficients.

    Compiled, they go through one kernel, :data:`~tuner.optimizers.compiled.GROUP` at a time:
    between large tensors the caches are cold, and a call then costs 0.1 ms.

    Args:
        rule: An element-wise rule.
        items: Parameters, gradient and state of each, contiguous; the same types in all.
        c: Coefficients, 0-d.
        compiled: As in :func:`apply_`.
    """
    # A size of 1 is a constant to the compiler, one of 0 has nothing to do, and on a GPU a group's
    # kernel counts with 32 bits.
    left = [item for item in items if 1 < item[0].numel() < 1 << 31]
    others = [item for item in items if not 1 < item[0].numel() < 1 << 31]
    if compiled and rule.granularity == "element":
        while len(left) > 1 and run_compiled(rule, left[:GROUP], c, (-1,)):
            left = left[GROUP:]
    for p, g, state in (*left, *others):
        apply_(rule, p, g, state, c, (-1,), compiled=compiled)


def _apply_eager(rule: Rule, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims) -> None:
    budget = CHUNK * torch.get_num_threads()
    whole = rule.granularity == "model" or p.device.type != "cpu" or len(dims) != 1
    if whole or p.numel() <= budget:
        step_(rule, p, g, state, c, dims)
        return
    width = p.shape[-1]
    columns = min(width, budget)
    if p.ndim == 1:
        row_cuts: Sequence[slice | None] = (None,)
    else:
        rows = max(1, budget // columns)
        row_cuts = [slice(k, k + rows) for k in range(0, p.shape[0], rows)]
    for cut in row_cuts:
        _apply_rows(rule, *_rows(cut, p, g, state, c), dims=dims, columns=columns)


def _rows(
    cut: slice | None, p: Tensor, g: Tensor, state: Tensors, c: Tensors
) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The same arguments for some of the slots."""
    if cut is None:
        return p, g, dict(state), dict(c)
    return (
        p[cut],
        g[cut],
        {name: s[cut] for name, s in state.items()},
        {name: value[cut] if value.ndim else value for name, value in c.items()},
    )


def _apply_rows(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    state: Tensors,
    c: Tensors,
    *,
    dims: Dims,
    columns: int,
) -> None:
    """Chunks along the last axis; state of one number a slot is written after the last chunk."""
    width = p.shape[-1]
    wide = {name for name, s in state.items() if s.shape[-1] == width}
    new: dict[str, Tensor] = {}
    for start in range(0, width, columns):
        cut = (..., slice(start, start + columns))
        here = {name: s[cut] if name in wide else s for name, s in state.items()}
        new = updated(rule, p[cut], g[cut], here, c, dims)
        p[cut].copy_(new[""])
        for name in wide:
            here[name].copy_(new[name])
    for name in state.keys() - wide:
        state[name].copy_(new[name])
