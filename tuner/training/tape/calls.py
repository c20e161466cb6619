"""A recorded program as data: which operation takes which values and gives which.

Values are numbered. Those below :attr:`Tape.inputs` are the arguments of the program, in order;
each call adds its results. What a call may write to is known from the operation's own schema, and
which values share memory from the storages they had while they were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload


@dataclass(frozen=True, slots=True)
class Ref:
    """A value among the arguments of a call."""

    index: int


@dataclass(frozen=True, slots=True)
class Value:
    """What a value looked like when it was recorded.

    Args:
        shape: Its size by axis.
        stride: Elements between neighbours, by axis.
        dtype: Of its elements.
        device: Where it lies.
        storage: Equal for values that share memory.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    storage: int

    @classmethod
    def of(cls, tensor: Tensor, storage: int) -> Value:
        """How a tensor looks."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, storage)

    def empty(self) -> Tensor:
        """A tensor that looks so; its numbers mean nothing."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)

    @property
    def layout(self) -> tuple[Any, ...]:
        """Equal for values that may stand for each other where they hold the same numbers."""
        return self.shape, self.stride, self.dtype, self.device

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, whether or not they overlap."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(slots=True)
class Call:
    """One operation.

    Args:
        target: The operation.
        args: Its positional arguments; values are :class:`Ref`, also within lists.
        kwargs: Its keyword arguments, likewise.
        results: The values it gives; None for a result that is no tensor.
        several: Whether it gives a tuple rather than one tensor.
    """

    target: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int | None, ...]
    several: bool

    @property
    def uses(self) -> Iterator[int]:
        """The values it reads (or writes to in place), with repetition."""
        yield from refs(self.args)
        yield from refs(self.kwargs.values())

    def read(self, instead: Mapping[int, int]) -> None:
        """Reads other values in the place of those that are named."""
        if any(index in instead for index in self.uses):
            given = (self.args, self.kwargs)
            self.args, self.kwargs = substituted(given, lambda i: Ref(instead.get(i, i)))

    @property
    def result(self) -> int:
        """The only value it gives."""
        (index,) = self.results
        if index is None:
            raise ValueError(f"{self.target} gives no tensor")
        return index

    @property
    def writes(self) -> bool:
        """Whether it changes one of its arguments."""
        return bool(self.target._schema.is_mutable)

    @property
    def source(self) -> int | None:
        """The value that its first argument is."""
        first = self.args[0] if self.args else None
        return first.index if isinstance(first, Ref) else None

    def run(self, values: Callable[[int], Tensor]) -> tuple[Tensor | None, ...]:
        """Its results, for given arguments."""
        args, kwargs = substituted((self.args, self.kwargs), values)
        found = self.target(*args, **kwargs)
        return tuple(found) if self.several else (found,)


@dataclass
class Tape:
    """A program: what it takes, what it calls in which order, and what it gives.

    Args:
        inputs: How many arguments it has; they are values 0, 1, ...
        values: Every value's look; the list grows when a pass adds calls.
        calls: In order.
        outputs: The values it gives.
        constants: Values that no call gives: tensors that the program found elsewhere.
        grad: Whether gradients were enabled: oneDNN's LSTM keeps what its backward needs only then.
    """

    inputs: int
    values: list[Value]
    calls: list[Call]
    outputs: list[int]
    constants: dict[int, Tensor] = field(default_factory=dict)
    grad: bool = False

    @property
    def written(self) -> set[int]:
        """Storages that some call changes in place."""
        return {
            self.values[index].storage
            for call in self.calls
            if call.writes
            for index in mutated(call)
        }


def mutated(call: Call) -> Iterator[int]:
    """The values that a call writes to."""
    schema = call.target._schema
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = call.args[i] if i < len(call.args) else call.kwargs.get(argument.name)
        yield from refs([given])


def refs(arguments: Any) -> Iterator[int]:
    """The values among arguments, also within lists."""
    for argument in arguments:
        if isinstance(argument, Ref):
            yield argument.index
        elif isinstance(argument, list | tuple):
            yield from refs(argument)


def substituted(arguments: Any, values: Callable[[int], Any]) -> Any:
    """Arguments with each value replaced."""
    if isinstance(arguments, Ref):
        return values(arguments.index)
    if isinstance(arguments, list | tuple):
        return type(arguments)(substituted(a, values) for a in arguments)
    if isinstance(arguments, dict):
        return {name: substituted(a, values) for name, a in arguments.items()}
    return arguments
