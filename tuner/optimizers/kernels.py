"""Runs a rule in place: chunked so that temporaries stay in cache, or compiled into one pass.

Eager PyTorch streams every temporary of a formula through memory. Cut into pieces that fit the
second-level cache, the same operations run out of cache; compiled, they are one loop. Neither
changes the mathematics, which stays in :meth:`tuner.optimizers.rule.Rule.update`.
"""

from __future__ import annotations

import functools
import logging
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tuner.optimizers.coefficients import coefficient_table, working_dtype
from tuner.optimizers.rule import Dims, Rule, Tensors

__all__ = ["apply_", "coefficient_table", "working_dtype"]

log = logging.getLogger(__name__)

CHUNK = 131_072
"""Elements a thread works on at a time: its temporaries, half a MiB each in float32, stay in the
last-level cache, and are long enough to outweigh the calls."""
COMPILED_FROM = 2_048
"""Below this many elements a compiled call costs more in guards than it saves."""

_Kernel = Callable[..., None]
_compiled: dict[tuple[object, ...], _Kernel] = {}
_broken: set[str] = set()
"""Device types on which no compiler worked in this process."""


def apply_(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    state: Tensors,
    c: Tensors,
    dims: Dims,
    *,
    mask: Tensor | None = None,
    compiled: bool = False,
) -> None:
    """One step of ``rule``, written into ``p`` and the tensors of ``state`` in place.

    Args:
        rule: The formula.
        p: Parameters: a view of a flat ``[K, P]`` (or ``[P]``) buffer, rows cut at will, for
            granularity ``element`` and ``model``; ``[K, *shape]`` (or ``[*shape]``) for ``tensor``.
        g: Gradient, shaped as ``p``; never written.
        state: Buffers by name, as made by ``rule.init``; may be float32 where ``p`` is 16 bits.
        c: Coefficients by name, ``[K, 1, ...]`` or 0-d; for 16-bit parameters give them in
            float32, in which such parameters are updated before they are rounded back.
        dims: The negative axes of ``shape``.
        mask: bool ``[K]``: the slots that step now. The others keep their bits, NaN or not.
        compiled: Whether to run one compiled pass (element and model rules). Falls back to the
            eager form, once and with a log line, where no compiler works.
    """
    if p.numel() == 0:
        return
    if mask is not None:
        mask = mask.reshape(-1, *(1 for _ in dims))
    if rule.granularity == "tensor":
        _step(rule, p, g, state, c, dims, mask)
        return
    if compiled and p.numel() >= COMPILED_FROM and p.device.type not in _broken:
        _apply_compiled(rule, p, g, state, c, dims, mask)
    else:
        _apply_eager(rule, p, g, state, c, dims, mask)


def _step(
    rule: Rule, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims, mask: Tensor | None
) -> None:
    """One whole step: compute wide, keep masked slots, write back."""
    for name, new in _updated(rule, p, g, state, c, dims, mask).items():
        (p if name == "" else state[name]).copy_(new)


def _updated(
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


def _apply_eager(
    rule: Rule, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims, mask: Tensor | None
) -> None:
    budget = CHUNK * torch.get_num_threads()
    whole = rule.granularity == "model" or p.device.type != "cpu" or len(dims) != 1
    if whole or p.numel() <= budget:
        _step(rule, p, g, state, c, dims, mask)
        return
    width = p.shape[-1]
    columns = min(width, budget)
    if p.ndim == 1:
        row_cuts: Sequence[slice | None] = (None,)
    else:
        rows = max(1, budget // columns)
        row_cuts = [slice(k, k + rows) for k in range(0, p.shape[0], rows)]
    for cut in row_cuts:
        _apply_rows(rule, *_rows(cut, p, g, state, c, mask), dims=dims, columns=columns)


def _rows(
    cut: slice | None, p: Tensor, g: Tensor, state: Tensors, c: Tensors, mask: Tensor | None
) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor], Tensor | None]:
    """The same arguments for some of the slots."""
    if cut is None:
        return p, g, dict(state), dict(c), mask
    return (
        p[cut],
        g[cut],
        {name: s[cut] for name, s in state.items()},
        {name: value[cut] if value.ndim else value for name, value in c.items()},
        None if mask is None else mask[cut],
    )


def _apply_rows(
    rule: Rule,
    p: Tensor,
    g: Tensor,
    state: Tensors,
    c: Tensors,
    mask: Tensor | None,
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
        new = _updated(rule, p[cut], g[cut], here, c, dims, mask)
        p[cut].copy_(new[""])
        for name in wide:
            here[name].copy_(new[name])
    for name in state.keys() - wide:
        state[name].copy_(new[name])


def _apply_compiled(
    rule: Rule, p: Tensor, g: Tensor, state: Tensors, c: Tensors, dims: Dims, mask: Tensor | None
) -> None:
    # One slot is a kernel of its own: a size of 1 is a constant to the compiler.
    key = (_key_of(rule), p.shape[:-1] == (1,), p.ndim, p.dtype, p.device.type, mask is None)
    tensors = (p, g, *state.values(), *c.values(), *(() if mask is None else (mask,)))
    kernel = _compiled.get(key)
    if kernel is not None:
        kernel(*tensors)
        return
    kernel = _compile(rule, tuple(state), tuple(c), dims)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own modules warn of each other
            kernel(*tensors)
    except Exception as error:  # any backend's own kind; it is raised before anything is written
        _broken.add(p.device.type)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        log.warning("no compiler for %s on %s, running eager: %s", rule.name, p.device.type, reason)
        _apply_eager(rule, p, g, state, c, dims, mask)
    else:
        _compiled[key] = kernel


@functools.cache
def _key_of(rule: Rule) -> tuple[object, ...]:
    return rule.key


def _compile(rule: Rule, states: tuple[str, ...], names: tuple[str, ...], dims: Dims) -> _Kernel:
    """A kernel over all sizes, compiled at its first call; takes its tensors one by one."""
    first_c = 2 + len(states)
    first_mask = first_c + len(names)

    def kernel(*tensors: Tensor) -> None:
        state = dict(zip(states, tensors[2:first_c], strict=True))
        c = dict(zip(names, tensors[first_c:first_mask], strict=True))
        mask = tensors[first_mask] if len(tensors) > first_mask else None
        _step(rule, tensors[0], tensors[1], state, c, dims, mask)

    # Dynamo counts recompilations by code object, so each kernel gets one of its own.
    own: Any = types.FunctionType(
        kernel.__code__.replace(co_name=f"{rule.name}_kernel"),
        kernel.__globals__,
        f"{rule.name}_kernel",
        None,
        kernel.__closure__,
    )
    # Types, shapes and strides may change from call to call; the rule and this module do not.
    options: Any = {"guard_filter_fn": _tensor_guards, "size_asserts": False}
    compiled: _Kernel = torch.compile(own, fullgraph=True, dynamic=True, options=options)
    return compiled


def _tensor_guards(guards: Sequence[Any]) -> list[bool]:
    return [guard.guard_type in ("TENSOR_MATCH", "SHAPE_ENV") for guard in guards]
