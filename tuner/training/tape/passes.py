"""Tidies a recorded program: what costs a call and changes nothing is taken out.

``vmap`` and autograd record many reshapes to the shape a tensor already has, pairs of transposes
that cancel, products with one, and tensors that are the same in every run. At the sizes of a small
model each costs about as much as real work. Results do not change by a bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tuner.training.tape.calls import Call, Ref, Tape, Value, mutated
from tuner.training.tape.plan import VIEWS

aten = torch.ops.aten

_RESHAPES = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.expand.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
}
_PRODUCTS = {aten.mul.Scalar, aten.mul.Tensor}
_TRANSPOSES = {aten.transpose.int, aten.t.default}
_TURNABLE = {aten.bmm.default, aten.mm.default}
_COPIES = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
_OF_SHAPE_ONLY = {
    aten.ones_like.default,
    aten.zeros_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
}
"""They read no values, so they give the same whatever they are given."""
CONSTANT_BYTES = 1 << 20
"""Larger results are made anew in each run rather than kept."""


def tidy(tape: Tape) -> None:
    """All passes, in place."""
    drop_copies(tape)
    turn_products(tape)
    drop_copies(tape)
    keep_constants(tape)
    drop_unused(tape)


def drop_copies(tape: Tape) -> None:
    """Takes out calls whose result is what they were given."""
    makers: dict[int, Call] = {}
    instead: dict[int, int] = {}
    joined: dict[int, int] = {}
    written = tape.written
    kept = []
    for call in tape.calls:
        call.read(instead)
        for index in (r for r in call.results if r is not None):
            value = tape.values[index]
            tape.values[index] = replace(value, storage=joined.get(value.storage, value.storage))
        same = _same_as(call, tape, makers, written)
        if same is None:
            kept.append(call)
            makers.update(dict.fromkeys((r for r in call.results if r is not None), call))
        else:
            instead[call.result] = same
            # A product with one has memory of its own; what views it now looks at the source's.
            joined[tape.values[call.result].storage] = tape.values[same].storage
    tape.calls = kept
    tape.outputs = [instead.get(index, index) for index in tape.outputs]


def _same_as(call: Call, tape: Tape, makers: dict[int, Call], written: set[int]) -> int | None:
    """The value that a call's result equals, strides included, if there is one."""
    source = call.source
    if source is None or call.several or call.results[0] is None:
        return None
    before, after = tape.values[source], tape.values[call.result]
    if call.target in _COPIES:
        return source
    if call.target in _RESHAPES and before.layout == after.layout:
        return source
    if call.target is aten.transpose.int:
        maker = makers.get(source)
        again = maker is not None and maker.target is call.target
        if maker is not None and again and _axes(call, tape) == _axes(maker, tape):
            return maker.source
    by = call.args[1] if call.target in _PRODUCTS else None
    once = isinstance(by, int | float) and by == 1
    if once and before.layout == after.layout and not {before.storage, after.storage} & written:
        return source
    return None


def _axes(call: Call, tape: Tape) -> set[int]:
    ndim = len(tape.values[call.result].shape)
    return {axis % ndim for axis in call.args[1:3]}


def keep_constants(tape: Tape) -> None:
    """Computes once what no input has a part in, such as masks and indices."""
    written = tape.written
    fixed = {i: t for i, t in tape.constants.items() if tape.values[i].storage not in written}
    kept = []
    for call in tape.calls:
        if not _is_fixed(call, tape, fixed, written):
            kept.append(call)
            continue
        # What only the shape matters of may be anything.
        found = call.run(lambda i: fixed[i] if i in fixed else tape.values[i].empty())
        for index, tensor in zip(call.results, found, strict=True):
            if index is not None and tensor is not None:
                fixed[index] = tensor
    tape.calls = kept
    used = {index for call in tape.calls for index in call.uses} | set(tape.outputs)
    tape.constants |= {i: t for i, t in fixed.items() if i in used}


def _is_fixed(call: Call, tape: Tape, fixed: dict[int, Tensor], written: set[int]) -> bool:
    results = [tape.values[r] for r in call.results if r is not None]
    if call.writes or any(v.storage in written for v in results):
        return False
    # What is made on the host for a GPU is kept, whatever its size: to send it over in each run,
    # the device would be waited for, and there would be no CUDA graph.
    home = tape.values[0].device
    copied = [tape.values[i] for i in call.uses] if call.target is aten._to_copy.default else []
    sent = any(v.device != home for v in (*results, *copied))
    if not sent and any(v.nbytes > CONSTANT_BYTES for v in results):
        return False
    return call.target in _OF_SHAPE_ONLY or all(index in fixed for index in call.uses)


def drop_unused(tape: Tape) -> None:
    """Takes out calls whose results nobody reads."""
    used = set(tape.outputs)
    stored = {tape.values[index].storage for index in used}
    kept = []
    for call in reversed(tape.calls):
        changes = call.writes and any(tape.values[i].storage in stored for i in mutated(call))
        if changes or any(r in used for r in call.results):
            kept.append(call)
            used.update(call.uses)
            stored.update(tape.values[index].storage for index in call.uses)
    tape.calls = kept[::-1]
    tape.constants = {i: t for i, t in tape.constants.items() if i in used}


def turn_products(tape: Tape) -> None:
    """Computes a product that is only read transposed as the product of its transposed factors.

    The gradient of a weight is recorded as the transpose of one, but wanted row by row. Not where
    an operation reads it: it may count on how its arguments lay while they were recorded.
    """
    readers: dict[int, list[Call]] = {}
    for call in tape.calls:
        for index in call.uses:
            readers.setdefault(index, []).append(call)
    makers = {call.results[0]: call for call in tape.calls if not call.several}
    new: dict[int, list[Call]] = {}
    storages = max((value.storage for value in tape.values), default=-1)
    for call in tape.calls:
        product = makers.get(call.source) if call.target in _TRANSPOSES else None
        if product is None or product.target not in _TURNABLE:
            continue
        if len(readers[product.result]) != 1 or product.result in tape.outputs:
            continue
        ndim = len(tape.values[product.result].shape)
        if call.target is aten.transpose.int and _axes(call, tape) != {ndim - 2, ndim - 1}:
            continue
        storages += 1
        looks = tape.values[call.result]
        dense = torch.empty(looks.shape, device="meta").stride()
        found = _seen_from(replace(looks, stride=dense, storage=storages), call.result, readers)
        if found is None:
            continue
        for index, value in found.items():
            tape.values[index] = value
        left, right = (a.index for a in product.args)
        turned = [_transposed(tape, index) for index in (right, left)]
        new[id(product)] = turned
        new[id(call)] = [
            Call(product.target, tuple(Ref(t.result) for t in turned), {}, call.results, False)
        ]
    tape.calls = [c for call in tape.calls for c in new.get(id(call), [call])]


def _seen_from(
    value: Value, index: int, readers: Mapping[int, Sequence[Call]]
) -> dict[int, Value] | None:
    """How a value and all views of it look; None where others read it, or a view is none of it."""
    found = {index: value}
    for call in readers.get(index, ()):
        if call.target not in VIEWS:
            return None
        try:
            (view,) = call.run(lambda _: value.empty())
        except RuntimeError:
            return None
        assert view is not None
        below = _seen_from(Value.of(view, value.storage), call.result, readers)
        if below is None:
            return None
        found |= below
    return found


def _transposed(tape: Tape, index: int) -> Call:
    """A call that turns the last two axes of a value."""
    value = tape.values[index]
    shape = (*value.shape[:-2], value.shape[-1], value.shape[-2])
    stride = (*value.stride[:-2], value.stride[-1], value.stride[-2])
    tape.values.append(Value(shape, stride, value.dtype, value.device, value.storage))
    ndim = len(shape)
    args = (Ref(index), ndim - 2, ndim - 1)
    return Call(aten.transpose.int, args, {}, (len(tape.values) - 1,), several=False)
