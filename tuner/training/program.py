"""The tensor programs of a population: gradients of many slots, and their evaluation.

The mathematics of one slot (:mod:`tuner.training.one_slot`) runs in one of these forms:

- ``fused``: under ``vmap``, all slots of a block at once;
- ``looped``: slot after slot.

Autograd works outside of ``vmap``: the slots' losses are added up, and since no slot's loss depends
on another slot's parameters, the gradient of the sum is every slot's own. Each form runs eagerly,
*recorded* (once as a list of ATen calls, already differentiated and batched, so that neither
autograd nor ``vmap`` costs anything while it runs), recorded as a CUDA graph, or compiled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from tuner.errors import NotVmappable
from tuner.training.batch import Batch, Gradients, Tensors
from tuner.training.channels import image_functions
from tuner.training.one_slot import OneSlot
from tuner.training.randomness import own_generators
from tuner.training.tape import NotRecordable, compiled, graphed, recorded

Backend = Literal["eager", "recorded", "graphed", "compiled"]
Runner = Callable[[Sequence[Tensor], Tensor | None], list[Tensor]]
"""Takes arguments and the place for gradients ``[R, P]``; gives the other results."""

HOT = 8
"""Calls with the same shapes before a program is recorded: what they lost by not being so."""


@dataclass(frozen=True)
class Form:
    """How a program runs.

    Args:
        fused: Whether ``vmap`` runs several slots at once.
        backend: How its operations are called.
        channels_last: Whether images lie channels last within it.
    """

    fused: bool
    backend: Backend
    channels_last: bool = False


class Programs:
    """All programs of one architecture, recorded when they are used often and kept by shape.

    Args:
        one: What they compute, for one slot.
    """

    def __init__(self, one: OneSlot) -> None:
        self.one = one
        self.task = one.task
        self.architecture = one.architecture
        self._spans = [(slice(s.start, s.stop), s.shape) for s in one.architecture.spans]
        self.refused = ""
        """Why a program could not be recorded, and runs eagerly; empty when none was refused."""
        self.hot = HOT
        """As the constant says; fewer where records themselves are what is looked at."""
        self._runners: dict[tuple[Any, ...], Runner] = {}
        self._calls: Counter[tuple[Any, ...]] = Counter()

    def gradients(
        self,
        params: Tensor,
        buffers: Tensors,
        batch: Batch,
        form: Form,
        into: Tensor | None = None,
        *,
        at_once: bool = False,
    ) -> Gradients:
        """Gradients of every row of ``params`` ``[R, P]`` on one micro-batch.

        Args:
            params: ``[R, P]``.
            buffers: Of the model, ``[R, ...]``.
            batch: The micro-batch.
            form: How to run it.
            into: ``[R, P]``, where the gradients go; new memory unless given.
            at_once: Whether to record or compile now, rather than when these shapes are common.

        Raises:
            NotVmappable: The form is fused, and ``vmap`` refuses the model.
        """
        flat = torch.empty_like(params) if into is None else into
        if form.fused or len(params) == 1:
            with _refusals(form.fused):
                loss, new = self._run(params, buffers, batch, form, flat, at_once)
            return Gradients(flat, loss, new)
        found = []
        for k in range(len(params)):
            at = slice(k, k + 1)
            own = {name: value[at] for name, value in buffers.items()}
            found.append(self._run(params[at], own, batch.rows(at), form, flat[at], at_once))
        losses, news = zip(*found, strict=True)
        new = {name: torch.cat([own[name] for own in news]) for name in news[0]}
        return Gradients(flat, torch.cat(losses), new)

    def evaluate(
        self,
        params: Tensor,
        buffers: Tensors,
        x: Tensor,
        y: Tensor,
        numbers: Tensors,
        form: Form,
    ) -> Tensors:
        """Sums over samples ``[m, ...]`` of ``loss`` and each metric, ``[R]`` each."""
        names = ("loss", *self.task.extra_metrics)
        if not form.fused and len(params) > 1:
            rows = [
                self.evaluate(
                    params[k : k + 1],
                    {name: value[k : k + 1] for name, value in buffers.items()},
                    x,
                    y,
                    {name: value[k : k + 1] for name, value in numbers.items()},
                    form,
                )
                for k in range(len(params))
            ]
            return {name: torch.cat([row[name] for row in rows]) for name in names}
        order, settings = tuple(buffers), tuple(numbers)

        def body(params: Tensor, x: Tensor, y: Tensor, *values: Tensor) -> list[Tensor]:
            views, own = self.architecture.views(params), dict(zip(order, values, strict=False))
            given = dict(zip(settings, values[len(order) :], strict=True))
            with image_functions(batched=form.fused, last=form.channels_last):
                if form.fused:
                    with _no_fast_path():
                        one = vmap(self.one.metrics, in_dims=(0, 0, None, None, 0))
                        found = one(views, own, x, y, given)
                    return [found[name] for name in names]
                found = self.one.metrics(_only(views), _only(own), x, y, _only(given))
                return [found[name][None] for name in names]

        leaves = (params, x, y, *buffers.values(), *numbers.values())
        with torch.no_grad(), _refusals(form.fused):
            key = ("evaluate", form, settings, params.dtype, *_layouts(leaves))
            run = self._runner(key, body, leaves, form.backend, (), self.hot)
            if isinstance(run, _Eager) and not form.fused:
                zero = torch.zeros((), dtype=torch.int32, device=x.device)
                with own_generators(zero, zero):
                    return dict(zip(names, run(leaves, None), strict=True))
            return dict(zip(names, run(leaves, None), strict=True))

    def curvature(
        self,
        params: Tensor,
        buffers: Tensors,
        batch: Batch,
        origin: Tensor,
        *,
        kind: str,
        fused: bool,
    ) -> Tensor:
        """One micro-batch's part of what the Hessian's diagonal is estimated from, ``[R, P]``.

        Args:
            params: ``[R, P]``.
            buffers: Of the model, ``[R, ...]``.
            batch: The micro-batch.
            origin: int32 ``[R]``, samples each trial saw before the batch that it is a part of.
            kind: ``gnb`` or ``hutchinson``; see :class:`~tuner.training.one_slot.OneSlot`.
            fused: Whether to run all rows at once.

        Raises:
            NotVmappable: ``fused``, and ``vmap`` refuses the model.
        """
        if not fused and len(params) > 1:
            found = []
            for k in range(len(params)):
                at = slice(k, k + 1)
                own = {name: value[at] for name, value in buffers.items()}
                rest = (batch.rows(at), origin[at])
                found.append(self.curvature(params[at], own, *rest, kind=kind, fused=fused))
            return torch.cat(found)
        leaves = self._leaves(params)
        weights = list(leaves.values())
        with (
            torch.enable_grad(),
            _refusals(fused),
            nullcontext() if fused else own_generators(batch.seed[0], batch.offset[0]),
            image_functions(batched=fused, last=False),
        ):
            if kind == "gnb":
                scaled = _of_rows(self.one.loss_of_drawn, leaves, buffers, batch, fused=fused)
                parts = torch.autograd.grad(scaled.sum(), weights, materialize_grads=True)
            else:
                scaled, *_ = _of_rows(self.one.loss, leaves, buffers, batch, fused=fused)
                signs = list(vmap(self.one.signs)(leaves, batch.seed, origin).values())
                slope = torch.autograd.grad(
                    scaled.sum(), weights, create_graph=True, materialize_grads=True
                )
                # Reverse over reverse: more operations have it than forward mode.
                along = torch.stack([(g * v).sum() for g, v in zip(slope, signs, strict=True)])
                if not along.requires_grad:  # the loss is linear
                    return torch.zeros_like(params)
                products = torch.autograd.grad(along.sum(), weights, materialize_grads=True)
                parts = tuple(hv * v for hv, v in zip(products, signs, strict=True))
        return torch.cat([part.unsqueeze(-1).flatten(1) for part in parts], 1)

    def _leaves(self, params: Tensor) -> Tensors:
        """The parameters by name, as what gradients are taken of."""
        views = self.architecture.views(params)
        return {name: view.detach().requires_grad_() for name, view in views.items()}

    def forget(self) -> None:
        """Lets go of every record, with the memory that CUDA graphs hold."""
        self._runners.clear()
        self._calls.clear()

    def _run(
        self,
        params: Tensor,
        buffers: Tensors,
        batch: Batch,
        form: Form,
        into: Tensor,
        at_once: bool,
    ) -> tuple[Tensor, Tensors]:
        """Writes the gradients; the losses, and new buffers."""
        names, numbers = tuple(buffers), tuple(batch.numbers)
        moving = [name for name in names if name not in self.architecture.constant]

        def body(params: Tensor, x: Tensor, y: Tensor, *rest: Tensor) -> list[Tensor]:
            scale, seed, offset, *values = rest
            own = dict(zip(names, values, strict=False))
            given = dict(zip(numbers, values[len(names) :], strict=True))
            leaves = self._leaves(params)
            here = Batch(x, y, batch.shared, given, scale, seed, offset)
            with torch.enable_grad(), image_functions(batched=form.fused, last=form.channels_last):
                scaled, loss, new = _of_rows(self.one.loss, leaves, own, here, fused=form.fused)
                gradients = torch.autograd.grad(
                    scaled.sum(), list(leaves.values()), materialize_grads=True
                )
            return [*gradients, loss.detach(), *(new[name].detach() for name in moving)]

        leaves = (
            params,
            batch.x,
            batch.y,
            batch.scale,
            batch.seed,
            batch.offset,
            *buffers.values(),
            *batch.numbers.values(),
        )
        key = (form, batch.shared, numbers, params.dtype, *_layouts(leaves))
        hot = 1 if at_once else self.hot
        run = self._runner(key, body, leaves, form.backend, self._spans, hot)
        if isinstance(run, _Eager) and not form.fused:
            with own_generators(batch.seed[0], batch.offset[0]):
                loss, *new = run(leaves, into)
        else:  # neither vmap nor a record draws from a global generator
            loss, *new = run(leaves, into)
        return loss, dict(zip(moving, new, strict=True))

    def _runner(
        self,
        key: tuple[Any, ...],
        function: Callable[..., list[Tensor]],
        leaves: Sequence[Tensor],
        backend: Backend,
        spans: Sequence[tuple[slice, tuple[int, ...]]],
        hot: int,
    ) -> Runner:
        """What runs ``function`` on these shapes: itself while they are rare, then a record.

        One that cannot be recorded, such as a metric that looks at values, stays as it is.
        """
        known = self._runners.get(key)
        if known is not None:
            return known
        self._calls[key] += 1
        runner: Runner = _Eager(function, len(spans))
        if backend == "eager" or self._calls[key] < hot:
            return runner
        try:
            runner = _MAKERS[backend](function, leaves, spans)
        except NotRecordable as error:
            self.refused = str(error)
        self._runners[key] = runner
        return runner


_MAKERS: Mapping[Backend, Callable[..., Runner]] = {
    "recorded": recorded,
    "graphed": graphed,
    "compiled": compiled,
}


class _Eager:
    """Runs a function as it is."""

    def __init__(self, function: Callable[..., list[Tensor]], placed: int) -> None:
        self.function = function
        self.placed = placed

    def __call__(self, arguments: Sequence[Tensor], into: Tensor | None) -> list[Tensor]:
        results = self.function(*arguments)
        if into is not None:
            rows = [g.unsqueeze(-1).flatten(1) for g in results[: self.placed]]
            torch.cat(rows, 1, out=into)
        return results[self.placed :]


def _of_rows(
    function: Callable[..., Any], params: Tensors, buffers: Tensors, batch: Batch, *, fused: bool
) -> Any:
    """What a function of one slot gives for each row, ``[R, ...]``; for the only one unless fused.

    Autograd works outside of it: within ``vmap`` it would see operations whole, such as a product
    with a bias, which come in pieces there, under autocast of other types.
    """
    own = (batch.numbers, batch.scale, batch.seed, batch.offset)
    if fused:
        data = None if batch.shared else 0
        axes = (0, 0, data, data, 0, 0, 0, 0)
        return vmap(function, axes, randomness="error")(params, buffers, batch.x, batch.y, *own)
    x, y = (batch.x, batch.y) if batch.shared else (batch.x[0], batch.y[0])
    numbers, *rest = own
    found = function(
        _only(params), _only(buffers), x, y, _only(numbers), *(value[0] for value in rest)
    )
    return tree_map(lambda value: value[None], found)


def _only(tensors: Tensors) -> Tensors:
    """The first row of each."""
    return {name: value[0] for name, value in tensors.items()}


def _layouts(tensors: Sequence[Tensor]) -> Iterator[tuple[Any, ...]]:
    return ((t.shape, t.stride(), t.dtype) for t in tensors)


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Has torch's own encoder layers call their operations one by one, also without gradients.

    They would call one kernel for a whole layer, which ``vmap`` runs slot after slot.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _refusals(fused: bool) -> Iterator[None]:
    """Says of errors under ``vmap`` that it refuses the model; others pass."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if not fused:
            raise
        raise NotVmappable(f"vmap refuses this model: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, enough for a log."""
    text = str(error).strip()
    return (text.splitlines() or [type(error).__name__])[0]
