"""Tensors of one parameter group that step together, and the flat buffers they share."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from tuner.optimizers.rule import Dims, Rule


@dataclass
class Batch:
    """Parameters that step together, and their state as the rule wants it.

    Either one tensor, stepped where it lies, or several, gathered into flat scratch ``[P]``.
    """

    params: list[Tensor]
    entries: list[dict[str, Any]]
    """What ``optimizer.state`` holds for each; its tensors are views of :attr:`state`."""
    state: dict[str, Tensor]
    step: int
    """Steps taken so far."""
    dims: Dims = (-1,)
    flat: Tensor | None = None
    flat_grad: Tensor | None = None
    views: tuple[Tensor, ...] = ()
    """Those of :attr:`flat`, shaped as the parameters."""
    grad_views: tuple[Tensor, ...] = ()

    @functools.cached_property
    def types(self) -> tuple[object, ...]:
        """Where its tensors lie, and their types."""
        first = self.params[0]
        return (first.device, first.dtype, *(s.dtype for s in self.state.values()))

    def gather(self) -> tuple[Tensor, Tensor]:
        """Parameters and gradients, each as the one tensor that the rule sees."""
        grads = [cast(Tensor, p.grad) for p in self.params]
        if self.flat is not None and self.flat_grad is not None:
            torch._foreach_copy_(self.views, self.params)
            torch._foreach_copy_(self.grad_views, grads)
            return self.flat, self.flat_grad
        p, g = self.params[0], grads[0]
        return (p.view(-1), g.contiguous().view(-1)) if len(self.dims) == 1 else (p, g)

    def scatter(self) -> None:
        """Writes gathered parameters back, and counts the step."""
        if self.flat is not None:
            torch._foreach_copy_(self.params, self.views)
        self.step += 1
        for entry in self.entries:
            entry["step"] = self.step


def join(rule: Rule, params: list[Tensor], entries: list[dict[str, Any]]) -> Batch:
    """One batch of parameters whose state is made; afterwards their entries hold views of it."""
    first, oldest = params[0], max(entries, key=lambda entry: int(entry["step"]))
    step = int(oldest["step"])
    if rule.granularity == "tensor":
        state = {name: entries[0][name] for name in rule.state}
        return Batch(params, entries, state, step, in_place(first)[1])
    state = {}
    alone = len(params) == 1 and first.is_contiguous()
    for name in rule.state:
        if name not in _wide(rule):
            # One number for all of them; a copy, lest those that once were joined still share it.
            state[name] = oldest[name].clone()
            for entry in entries:
                entry[name] = state[name]
        elif alone:
            state[name] = entries[0][name].view(-1)
        else:
            state[name] = torch.cat([entry[name].reshape(-1) for entry in entries])
            for entry, view in zip(entries, _shaped(state[name], params), strict=True):
                entry[name] = view
    if alone:
        return Batch(params, entries, state, step)
    total = sum(p.numel() for p in params)
    flat = torch.empty(total, dtype=first.dtype, device=first.device)
    grad = torch.empty_like(flat)
    views, grad_views = _shaped(flat, params), _shaped(grad, params)
    return Batch(params, entries, state, step, (-1,), flat, grad, views, grad_views)


def counted(rule: Rule, entry: Mapping[str, Any]) -> tuple[float, ...]:
    """The numbers that tell a parameter's past: its steps, and what a rule keeps one number of."""
    numbers = (name for name in rule.state if name not in _wide(rule))
    return (float(entry["step"]), *(float(entry[name]) for name in numbers))


def in_place(p: Tensor) -> tuple[Tensor, Dims]:
    """A view of ``p`` with at least one axis, and all its axes."""
    view = p.view(1) if p.ndim == 0 else p
    return view, tuple(range(-view.ndim, 0))


def flattened(rule: Rule, name: str, value: Tensor) -> Tensor:
    """One state tensor as the rule sees it on a flat parameter."""
    return value.view(-1) if name in _wide(rule) else value


def unflattened(rule: Rule, name: str, value: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of :func:`flattened`, for a parameter of that shape."""
    return value.view(shape) if name in _wide(rule) else value


def gather_below(device: torch.device) -> int:
    """Elements below which a tensor is gathered: what its launch costs is then more than a copy."""
    return 65_536 if device.type == "cpu" else 1_048_576


def _shaped(flat: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Views of a flat buffer, shaped as the parameters."""
    pieces = torch.split(flat, [p.numel() for p in params])
    return tuple(v.view(p.shape) for v, p in zip(pieces, params, strict=True))


@functools.cache
def _wide_names(key: tuple[object, ...], rule: Rule) -> frozenset[str]:
    fresh = rule.init(torch.zeros(2), (-1,))
    return frozenset(name for name, s in fresh.items() if s.numel() == 2)


def _wide(rule: Rule) -> frozenset[str]:
    """Names of the state that has one number a coordinate."""
    return _wide_names(rule.key, rule)
