"""Records which operations a function of tensors calls, below autograd and ``vmap``.

PyTorch's own tracers (``make_fx``) do this too, for symbolic shapes and compilers, and import a
second of modules to do so. Here shapes are fixed, and recording costs little more than the run that
is being recorded, whose results count.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from tuner.training.tape.calls import Call, Ref, Tape, Value
from tuner.training.tape.decompositions import decomposition

Function = Callable[..., list[Tensor]]

REFUSED = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.nondeterministic_seeded,
)
"""What a record cannot repeat: decisions by values, and draws from a global generator."""


class NotRecordable(Exception):
    """The function reads values of tensors, or draws random numbers of its own."""


def record(function: Function, arguments: Sequence[Tensor]) -> tuple[Tape, list[Tensor]]:
    """Runs a function once, and keeps what it did for arguments of these shapes.

    Args:
        function: Takes tensors and gives a list of tensors; its Python runs once, here.
        arguments: What to run it on.

    Returns:
        The record, and what the function gave.

    Raises:
        NotRecordable: The function cannot be repeated from a record.
    """
    recorder = _Recorder(arguments)
    with recorder:
        results = function(*arguments)
    outputs = [recorder.named(result).index for result in results]
    tape = Tape(
        len(arguments),
        recorder.values,
        recorder.calls,
        outputs,
        recorder.constants,
        recorder.grad,
    )
    return tape, results


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self.constants: dict[int, Tensor] = {}
        self._known: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self.grad = False
        self._storages = 0
        for argument in arguments:
            self._add(argument, ())

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would import its whole compiler at the first call, only to keep it out of here.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        replacement = decomposition(func, args)
        if replacement is not None:
            with self:
                return replacement(*args, **kwargs)
        if any(tag in REFUSED for tag in func.tags):
            raise NotRecordable(f"{func} depends on values, or draws random numbers")
        call = Call(func, self._arguments(args), self._arguments(kwargs), (), several=False)
        self.grad = self.grad or torch.is_grad_enabled()
        found = func(*args, **kwargs)
        call.several = isinstance(found, tuple | list)
        given = tensors_in((args, kwargs))
        call.results = tuple(
            self._result(r, given) if isinstance(r, Tensor) else None
            for r in (found if call.several else (found,))
        )
        self.calls.append(call)
        return found

    def named(self, tensor: Tensor) -> Ref:
        """The value that a tensor is; one that no call gave is a constant."""
        known = self._known.get(tensor)
        if known is None:
            known = self._add(tensor, ())
            self.constants[known] = tensor
        return Ref(known)

    def _arguments(self, arguments: Any) -> Any:
        if isinstance(arguments, Tensor):
            return self.named(arguments)
        if isinstance(arguments, list | tuple):
            return type(arguments)(self._arguments(a) for a in arguments)
        if isinstance(arguments, dict):
            return {name: self._arguments(a) for name, a in arguments.items()}
        return arguments

    def _result(self, tensor: Tensor, given: Sequence[Tensor]) -> int:
        known = self._known.get(tensor)  # an operation in place gives its argument
        return self._add(tensor, given) if known is None else known

    def _add(self, tensor: Tensor, given: Sequence[Tensor]) -> int:
        """A new value; it shares memory with an argument of its call, or with nothing."""
        index = len(self.values)
        address = tensor.untyped_storage()._cdata
        for other in given:
            if other.untyped_storage()._cdata == address:
                storage = self.values[self.named(other).index].storage
                break
        else:
            storage = self._storages
            self._storages += 1
        self.values.append(Value.of(tensor, storage))
        self._known[tensor] = index
        return index


def tensors_in(arguments: Any) -> list[Tensor]:
    """The tensors among arguments, also within lists."""
    if isinstance(arguments, Tensor):
        return [arguments]
    if isinstance(arguments, dict):
        arguments = arguments.values()
    elif not isinstance(arguments, list | tuple):
        return []
    return [tensor for a in arguments for tensor in tensors_in(a)]
