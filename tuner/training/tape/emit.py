"""Turns a record into a Python function of its own, without a wasted call.

The function calls PyTorch's own bindings, which are quicker than the operators that were recorded,
as :mod:`tuner.training.tape.plan` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tuner.training.tape import products
from tuner.training.tape.calls import Call, Ref, Tape
from tuner.training.tape.plan import Plan, Spans

aten = torch.ops.aten

BINDINGS: Mapping[Any, Callable[..., Any]] = {
    aten.view.default: Tensor.view,
    aten._unsafe_view.default: Tensor.view,
    aten.transpose.int: torch.transpose,
    aten.t.default: torch.t,
    aten.permute.default: torch.permute,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.squeeze.dim: torch.squeeze,
    aten.squeeze.dims: torch.squeeze,
    aten.select.int: torch.select,
    aten.expand.default: Tensor.expand,
    aten.clone.default: torch.clone,
    aten.relu.default: torch.relu,
    aten.tanh.default: torch.tanh,
    aten.sigmoid.default: torch.sigmoid,
    aten.exp.default: torch.exp,
    aten.log.default: torch.log,
    aten.neg.default: torch.neg,
    aten.rsqrt.default: torch.rsqrt,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.mul.Scalar: torch.mul,
    aten.div.Tensor: torch.div,
    aten.div.Scalar: torch.div,
    aten.where.self: torch.where,
    aten.gather.default: torch.gather,
    aten.scatter_add.default: torch.scatter_add,
    aten.amax.default: torch.amax,
    aten.mean.dim: torch.mean,
    aten.sum.dim_IntList: torch.sum,
    aten.sum.default: torch.sum,
    aten.cat.default: torch.cat,
    **products.PRODUCTS,
}
"""The same operations, positional arguments included."""
MOST_BINDINGS = 256
"""Places in memory whose views are kept."""


class Program:
    """A record as a function.

    Args:
        tape: The record; its first argument's views are kept for as long as it stays in its place.
        spans: Columns and shape of each of the first outputs in a flat row; they are written
            there, and only the outputs after them are returned.
    """

    def __init__(self, tape: Tape, spans: Spans = ()) -> None:
        self._plan = Plan(tape, spans)
        self._grad = tape.grad
        writer = _Writer(tape, self._plan)
        self._body = writer.compile()
        self.source = writer.source
        """The function's text, for those who want to know what runs."""
        self._views: dict[tuple[int, ...], list[Tensor]] = {}
        self._places: dict[tuple[int, ...], list[Tensor]] = {}

    def __call__(self, arguments: Sequence[Tensor], into: Tensor | None = None) -> list[Tensor]:
        """Runs it.

        Args:
            arguments: Of the shapes and strides that it was recorded with.
            into: ``[R, P]``, where outputs with a span go.

        Returns:
            The other outputs.
        """
        views = _kept(self._views, arguments[0], self._plan.views)
        places = [] if into is None else _kept(self._places, into, self._plan.places)
        with torch.inference_mode(), torch.set_grad_enabled(self._grad):
            found: list[Tensor] = self._body(*arguments, *views, *places)
        return found


def _kept(
    cache: dict[tuple[int, ...], list[Tensor]],
    tensor: Tensor,
    make: Callable[[Tensor], list[Tensor]],
) -> list[Tensor]:
    key = (tensor.data_ptr(), *tensor.stride())
    found = cache.get(key)
    if found is None:
        if len(cache) >= MOST_BINDINGS:
            cache.clear()
        found = cache[key] = make(tensor)
    return found


class _Writer:
    """Writes the function's text."""

    def __init__(self, tape: Tape, plan: Plan) -> None:
        self.tape = tape
        self.plan = plan
        self.names: dict[str, Any] = {}
        self._operations: dict[int, str] = {}
        self.source = ""

    def compile(self) -> Callable[..., list[Tensor]]:
        """The function: arguments, views and places in, the other outputs out."""
        arguments = [f"v{i}" for i in range(self.tape.inputs)]
        arguments += [f"v{i}" for i in self.plan.viewed]
        arguments += [f"p{i}" for i in range(len(self.plan.spans))]
        for index, tensor in self.tape.constants.items():
            self.names[f"v{index}"] = tensor
        before = products.position()
        switched = False
        body: list[str] = []
        for at, call in enumerate(self.plan.body):
            wanted = products.by_onednn(call, self.tape)
            if call.target in products.PRODUCTS and wanted != switched:
                body.append(f"throw({products.ONEDNN if wanted else before!r})")
                switched = wanted
            body.append(self._statement(at, call))
            dead = [i for i in {*call.uses, *self._given(call)} if self.plan.last_read[i] == at]
            if dead:
                body.append("del " + ", ".join(f"v{i}" for i in sorted(dead)))
        body += [f"p{i}.copy_(v{index})" for i, index in self.plan.copied]
        body.append(f"return [{', '.join(f'v{i}' for i in self.plan.returned)}]")
        if any(line.startswith("throw") for line in body):
            self.names["throw"] = products.throw
            body = ["try:", *(f"    {line}" for line in body)]
            body += ["finally:", f"    throw({before!r})"]
        text = [f"def program({', '.join(arguments)}):", *(f"    {line}" for line in body), ""]
        self.source = "\n".join(text)
        exec(compile(self.source, "<recorded program>", "exec"), self.names)
        function: Callable[..., list[Tensor]] = self.names["program"]
        return function

    def _given(self, call: Call) -> Iterator[int]:
        return (r for r in call.results if r is not None)

    def _statement(self, at: int, call: Call) -> str:
        arguments = [self._text(a) for a in call.args]
        arguments += [f"{name}={self._text(a)}" for name, a in call.kwargs.items()]
        operation = BINDINGS.get(call.target, call.target)
        if not call.several and call.results[0] is not None:
            span = self.plan.written_by.get(call.result)
            if span is not None:
                arguments.append(f"out=p{span}")
            else:
                free = self.plan.overwritten(at, call)
                if free is not None and call.target is aten.relu.default:
                    operation = torch.relu_
                elif free is not None:
                    arguments.append(f"out=v{free}")
        left = ", ".join("_" if r is None else f"v{r}" for r in call.results)
        return f"{left} = {self._operation(operation)}({', '.join(arguments)})"

    def _operation(self, operation: Callable[..., Any]) -> str:
        name = self._operations.setdefault(id(operation), f"f{len(self._operations)}")
        self.names[name] = operation
        return name

    def _text(self, argument: Any) -> str:
        if isinstance(argument, Ref):
            return f"v{argument.index}"
        if isinstance(argument, list | tuple):
            inner = ", ".join(self._text(a) for a in argument)
            return f"[{inner}]" if isinstance(argument, list) else f"({inner},)"
        if argument is None or isinstance(argument, bool | int | str):
            return repr(argument)
        name = f"k{len(self.names)}"
        self.names[name] = argument
        return name
