"""Convolutions, poolings and norms of many slots: their channels side by side, as one image.

``vmap`` by itself stacks the images of all slots in a pooling, which copies them, and a convolution
of few channels leaves vector units idle. With the slots' channels side by side a population of
narrow networks is one wide network with groups. Channels last, which is how this pays most, a
LeNet's convolutions and poolings take a third of the time on a CPU. Norms ask how their images
lie, which ``vmap`` answers for no layout but the plain one: they see the wide image too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tuner.training.replacing import replaced

POOLINGS = (
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
)
"""Functions of images ``[m, channels, ...]`` that treat every channel alike."""
BY_STATISTICS = ("batch_norm", "instance_norm")
"""Norms of every channel by itself, which may keep running statistics."""
NORMS = (*BY_STATISTICS, "group_norm")
CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
"""By name, their axes of space."""


class _ByChannel(torch.autograd.Function):
    """A function of images that treats every channel, or every group of channels, alike.

    It is given the images, how many slots' channels lie side by side, and numbers of each channel,
    the first ``written`` of which it may write.
    """

    @staticmethod
    def forward(
        x: Tensor, function: Callable[..., Tensor], written: int, *own: Tensor | None
    ) -> Tensor:
        # Only of images that no slot has a part in, so there is no gradient.
        return function(x, 1, *own)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        x: Tensor,
        function: Callable[..., Tensor],
        written: int,
        *own: Tensor | None,
    ) -> tuple[Tensor, int]:
        slots = info.batch_size
        wide = [
            None if tensor is None else _stacked(tensor, axis, slots)
            for tensor, axis in zip(own, in_dims[3:], strict=True)
        ]
        # A view, or an error: what is written into a copy would be lost.
        wide[:written] = [None if t is None else t.view(-1) for t in wide[:written]]
        wide[written:] = [None if t is None else t.flatten() for t in wide[written:]]
        out = function(_side_by_side(x, in_dims[0], slots), slots, *wide)
        return torch.unflatten(out, 1, (slots, -1)), 1


class _Convolution(torch.autograd.Function):
    """A convolution whose images, weights and biases may each belong to the slots."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        groups: int,
        function: Callable[..., Tensor],
    ) -> Tensor:
        return function(x, weight, bias, groups=groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        groups: int,
        function: Callable[..., Tensor],
    ) -> tuple[Tensor, int]:
        slots = info.batch_size
        of_x, of_weight, of_bias = in_dims[:3]
        weight = _stacked(weight, of_weight, slots)
        if bias is not None:
            bias = _stacked(bias, of_bias, slots).flatten(0, 1)
        if of_x is None and groups == 1:
            wide = x  # every slot looks at the same image
        else:
            wide = _side_by_side(x, of_x, slots)
            groups *= slots
        out = function(wide, weight.flatten(0, 1), bias, groups=groups)
        return torch.unflatten(out, 1, (slots, -1)), 1


def _applied(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    found: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]  # torch has no types here
    return found


def _stacked(tensor: Tensor, axis: int | None, slots: int) -> Tensor:
    """``[slots, ...]``, whether or not the slots differ."""
    return tensor.expand(slots, *tensor.shape) if axis is None else tensor.movedim(axis, 0)


def _side_by_side(x: Tensor, axis: int | None, slots: int) -> Tensor:
    """``[m, slots * channels, ...]``, whether or not the slots' images differ."""
    if axis is None:
        return x.unsqueeze(1).expand(-1, slots, *x.shape[1:]).flatten(1, 2)
    return x.movedim(axis, 1).flatten(1, 2)


def channels_last(x: Tensor) -> Tensor:
    """Images ``[m, channels, height, width]`` with the channels next to each other in memory."""
    if x.ndim != 4:
        return x
    if x.shape[1] == 1:
        # One channel lies either way; its strides say which way it is meant.
        height, width = x.shape[-2:]
        return x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))
    return x.contiguous(memory_format=torch.channels_last)


@contextmanager
def image_functions(*, batched: bool, last: bool) -> Iterator[None]:
    """Within it, convolutions are ours, and for several slots at once poolings and norms too.

    Args:
        batched: Whether ``vmap`` runs several slots at once.
        last: Whether images of two axes are to lie channels last.
    """
    theirs = {name: getattr(F, name) for name in (*POOLINGS, *CONVOLUTIONS, *NORMS)}

    def convolution(name: str) -> Callable[..., Tensor]:
        plain, axes = theirs[name], CONVOLUTIONS[name]

        def run(
            input: Tensor,
            weight: Tensor,
            bias: Tensor | None = None,
            stride: Any = 1,
            padding: Any = 0,
            dilation: Any = 1,
            groups: int = 1,
        ) -> Tensor:
            def function(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
                if last:
                    x, weight = channels_last(x), channels_last(weight)
                out: Tensor = plain(x, weight, bias, stride, padding, dilation, groups)
                return out

            if batched and input.ndim == axes + 2:
                return _applied(_Convolution, input, weight, bias, groups, function)
            return function(input, weight, bias, groups)

        return run

    def pooling(name: str) -> Callable[..., Any]:
        plain, axes = theirs[name], int(name[-2])

        def run(input: Tensor, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("return_indices") or input.ndim != axes + 2:
                return plain(input, *args, **kwargs)
            return _applied(_ByChannel, input, lambda x, _: plain(x, *args, **kwargs), 0)

        return run

    def by_statistics(name: str) -> Callable[..., Tensor]:
        plain = theirs[name]

        def run(
            input: Tensor,
            running_mean: Tensor | None = None,
            running_var: Tensor | None = None,
            weight: Tensor | None = None,
            bias: Tensor | None = None,
            *args: Any,
            **kwargs: Any,
        ) -> Tensor:
            def function(x: Tensor, _: int, *own: Tensor | None) -> Tensor:
                out: Tensor = plain(x, *own, *args, **kwargs)
                return out

            own = (running_mean, running_var, weight, bias)
            return _applied(_ByChannel, input, function, 2, *own)

        return run

    def group_norm(
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        def function(x: Tensor, slots: int, *own: Tensor | None) -> Tensor:
            out: Tensor = theirs["group_norm"](x, slots * num_groups, *own, eps)
            return out

        return _applied(_ByChannel, input, function, 0, weight, bias)

    ours = {name: convolution(name) for name in CONVOLUTIONS}
    if batched:
        ours |= {name: pooling(name) for name in POOLINGS}
        ours |= {name: by_statistics(name) for name in BY_STATISTICS}
        ours["group_norm"] = group_norm
    with replaced(ours if batched or last else {}):
        yield
