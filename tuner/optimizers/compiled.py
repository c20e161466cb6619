"""A rule as one compiled pass: inductor's C++ on a CPU, Triton on a GPU, eager where neither works.

One kernel serves all sizes, so a process compiles a handful of them. A call costs some 10
microseconds (0.1 ms when the caches are cold), hence kernels over several tensors. Those, and
what is contiguous on a CPU, are called past Dynamo, whose look at each tensor cost as much again.
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
from torch.autograd.graph import increment_version

from tuner.optimizers.inplace import step_
from tuner.optimizers.rule import Dims, Rule, Tensors

log = logging.getLogger(__name__)

UNCOMPILED = "no compiled frames"
"""What torch says where it has been told to compile nothing."""
GROUP = 20
"""Tensors of one model that a kernel takes at once; a smaller number is filled up. With 8 each step
of 20 million parameters took 4 % longer, and compiling once 8 s instead of 11."""

SHARED_FROM = 1 << 17
"""Elements from which the threads of a CPU share a kernel's loops; to wake them for less takes
longer than they save. Not by how many there are: a worker that takes fewer of them when others want
the cores would compile another kernel just then."""

LIKELY = 1 << 17
"""Elements of a tensor for which GPU kernels over a group are made; they take any number."""

Item = tuple[Tensor, Tensor, Tensors]
"""Parameters, gradient and state."""

_Kernel = Callable[..., None]
_kernels: dict[tuple[object, ...], _Kernel] = {}
_filling: dict[tuple[object, ...], list[Item]] = {}
_broken: set[tuple[object, ...]] = set()
"""Kernels, and types of device, for which the compiler does not work in this process."""


def run_compiled(rule: Rule, items: Sequence[Item], c: Tensors, dims: Dims) -> bool:
    """Steps the items in place by one kernel; False, with nothing done, where that cannot be.

    Args:
        rule: The formula.
        items: One, of any kind that :func:`tuner.optimizers.kernels.apply_` takes; or two to
            :data:`GROUP` flat ones ``[P]`` of more than one element, contiguous and of the same
            types, which is not looked at.
        c: Coefficients that all items share.
        dims: As in ``apply_``.
    """
    first = items[0][0]
    device = first.device.type
    group = len(items) > 1
    # A size of 1 is a constant to the compiler, so one slot is a kernel of its own.
    single = first.shape[:-1] == (1,)
    types = (first.device, first.dtype, *(s.dtype for s in items[0][2].values()))
    plain = group or _plain(*items[0])
    alike = next(iter(c.values())).ndim == 0
    shared = device == "cpu" and sum(p.numel() for p, _, _ in items) >= SHARED_FROM
    key = (_key_of(rule), group, plain, single, first.ndim, alike, shared, types)
    if (device,) in _broken or key in _broken:
        return False
    if group and len(items) < GROUP:
        items = [*items, *_filler(rule, key, first)[len(items) :]]
    named = [t for p, g, state in items for t in (p, g, *state.values())]
    tensors = [*named, *c.values()]
    if not plain:
        # Of a view the compiler would also trace, and guard, what it is a view of; no ``.data`` is.
        tensors = [t.data for t in tensors]
    kernel = _kernels.get(key)
    try:
        if kernel is not None:
            kernel(*tensors)
        else:
            formula = _formula(rule, len(items), tuple(items[0][2]), tuple(c), dims)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own modules warn of each other
                if plain:
                    examples = _examples(tensors, len(named), group=group)
                    kernel = _unguarded(formula, examples, shared=shared)
                    kernel(*tensors)
                else:
                    kernel = _guarded(formula, rule.name)
                    with _sizes_apart():
                        kernel(*tensors[: len(named)], *map(_anywhere, tensors[len(named) :]))
    except Exception as error:  # any backend's own kind; it is raised before anything is written
        # What has worked before fails for its shape; the device's compiler is not to blame.
        _broken.add(key if key in _kernels else (device,))
        reason = " ".join((str(error).strip() or repr(error)).splitlines()[:2])
        log.warning("cannot compile %s on %s, running eager: %s", rule.name, device, reason)
        # But for this one: the kernel ran as it is, and then it is said that it was not compiled.
        return UNCOMPILED in reason
    _kernels[key] = kernel
    if not plain:  # autograd, which must be told, cannot see through ``.data``
        increment_version([t for p, _, state in items for t in (p, *state.values())])
    return True


@functools.cache
def _key_of(rule: Rule) -> tuple[object, ...]:
    return rule.key


def _plain(p: Tensor, g: Tensor, state: Tensors) -> bool:
    """Whether a kernel need not look at these tensors, as they lie one number after another.

    On a GPU it has to: whether indices fit 32 bits, and where the tensors begin.
    """
    tensors = (p, g, *state.values())
    long = p.shape[-1] > 1  # a size of 1 is a constant to the compiler
    return long and p.device.type == "cpu" and all(t.is_contiguous() for t in tensors)


def _anywhere(c: Tensor) -> Tensor:
    """The same numbers where no vector begins: a kernel made for aligned ones copies others first.

    Coefficients lie in a table, a step after another, so few are aligned.
    """
    return torch.cat([c.new_zeros(1), c.reshape(-1)])[1:].view(c.shape)


def _filler(rule: Rule, key: tuple[object, ...], like: Tensor) -> list[Item]:
    """Tensors of two elements that nobody reads, kept for the next call."""
    key = (*key, like.device)
    if key not in _filling:
        found: list[Item] = []
        for _ in range(GROUP):
            p = like.new_zeros(2)
            found.append((p, torch.zeros_like(p), rule.init(_wide(p), (-1,))))
        _filling[key] = found
    return _filling[key]


def _wide(p: Tensor) -> Tensor:
    return p.float() if p.dtype.itemsize == 2 else p


def _sizes_apart() -> Any:
    """Tensors that happen to be of one size at compile time must not be bound to remain so."""
    from torch.fx.experimental import _config  # noqa: PLC0415 - slow to import, seldom needed

    config: Any = _config
    return config.patch(use_duck_shape=False)


def _formula(
    rule: Rule, count: int, states: tuple[str, ...], names: tuple[str, ...], dims: Dims
) -> _Kernel:
    """What a kernel computes; takes its tensors one by one."""
    width = 2 + len(states)
    first_c = count * width

    def formula(*tensors: Tensor) -> None:
        c = dict(zip(names, tensors[first_c:], strict=True))
        for start in range(0, first_c, width):
            state = dict(zip(states, tensors[start + 2 : start + width], strict=True))
            step_(rule, tensors[start], tensors[start + 1], state, c, dims)

    return formula


def _guarded(formula: Any, name: str) -> _Kernel:
    """A kernel over all sizes and strides, compiled at its first call, which looks at them."""
    # Dynamo counts recompilations by code object, so each kernel gets one of its own.
    code = formula.__code__.replace(co_name=f"{name}_kernel")
    own: Any = types.FunctionType(code, formula.__globals__, name, None, formula.__closure__)
    # Types, shapes and strides may change from call to call; the rule and this module do not.
    options: Any = {
        "guard_filter_fn": _tensor_guards,
        "size_asserts": False,
        # A GPU's blocks of threads over slots and coordinates: over both as one axis, each element
        # would be divided by a row's length, in 64 bits, to know its slot.
        "triton.prefer_nd_tiling": True,
    }
    compiled: _Kernel = torch.compile(own, fullgraph=True, dynamic=True, options=options)
    return compiled


def _unguarded(formula: _Kernel, inputs: list[Any], *, shared: bool) -> _Kernel:
    """A kernel over contiguous tensors of all sizes but 1, of which none is looked at.

    Args:
        formula: What it computes.
        inputs: Example tensors; sizes that differ among them may differ later, those alike must
            remain so.
        shared: Whether as many threads as there are at each call share its loops; otherwise one
            runs them, since examples are small.
    """
    from torch._dynamo import config  # noqa: PLC0415 - slow to import, seldom needed
    from torch._inductor import config as inductor  # noqa: PLC0415
    from torch._inductor import standalone_compile  # noqa: PLC0415
    from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415

    if config.disable:
        raise RuntimeError("torch has been told to compile nothing")

    def traced(*arguments: Tensor) -> tuple[()]:
        formula(*arguments)
        return ()

    graph = make_fx(traced, tracing_mode="symbolic")(*inputs)
    own: Any = inductor
    with own.patch({"size_asserts": False, "cpp.dynamic_threads": shared}):
        compiled: Any = standalone_compile(graph, inputs, dynamic_shapes="from_graph")
    kernel: _Kernel = compiled
    return kernel


def _examples(tensors: Sequence[Tensor], count: int, *, group: bool) -> list[Tensor]:
    """Small tensors of the kinds of these, of which ``count`` are items and the rest coefficients.

    The items of a group have lengths of their own; those of one item are alike where they are. On a
    GPU lengths are also what the compiler sizes its blocks of threads for.
    """
    if group:
        width = count // GROUP
        least = 16 if tensors[0].device.type == "cpu" else LIKELY
        items = [t.new_zeros(least + i // width) for i, t in enumerate(tensors[:count])]
        return [*items, *map(_anywhere, tensors[count:])]
    slots, length = 5, 24
    sizes = [[slots] * (t.ndim - 1) + [length] * (t.ndim > 0) for t in tensors]
    return [
        t.new_zeros([1 if n == 1 else size for n, size in zip(t.shape, chosen, strict=True)])
        for t, chosen in zip(tensors, sizes, strict=True)
    ]


def _tensor_guards(guards: Sequence[Any]) -> list[bool]:
    return [guard.guard_type in ("TENSOR_MATCH", "SHAPE_ENV") for guard in guards]
