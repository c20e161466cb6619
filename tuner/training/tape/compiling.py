"""Recorded programs handed on to PyTorch's compiler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tuner.training.tape.calls import Tape, substituted
from tuner.training.tape.emit import Program
from tuner.training.tape.passes import tidy
from tuner.training.tape.plan import Spans
from tuner.training.tape.recorder import record

log = logging.getLogger(__name__)


def compiled(
    function: Callable[..., list[Tensor]], arguments: Sequence[Tensor], spans: Spans = ()
) -> Callable[[Sequence[Tensor], Tensor | None], list[Tensor]]:
    """A function recorded and compiled; the plain record where no compiler works.

    Compiling takes seconds and happens at the first call. Arguments as of
    :func:`tuner.training.tape.recorded`.
    """
    tape, _ = record(function, arguments)
    tidy(tape)
    return _Compiled(tape, spans)


class _Compiled:
    def __init__(self, tape: Tape, spans: Spans) -> None:
        self._tape = tape
        self._spans = spans
        # Compiled anew at another number of threads, it would take seconds just when cores are few.
        options: Any = {"guard_filter_fn": _without_state}
        self._run: Any = torch.compile(graph_module(tape), dynamic=False, options=options)
        self._plain: Program | None = None
        self._tried = False

    def __call__(self, arguments: Sequence[Tensor], into: Tensor | None = None) -> list[Tensor]:
        if self._plain is not None:
            return self._plain(arguments, into)
        start = time.perf_counter()
        try:
            results = self._run(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any backend's own kind
            if self._tried:
                raise
            log.warning("not compiled: %s", str(error).strip().partition("\n")[0])
            self._plain = Program(self._tape, self._spans)
            return self._plain(arguments, into)
        if not self._tried:
            log.info("compiled a program in %.1f s", time.perf_counter() - start)
            self._tried = True
        if into is not None:
            placed = zip(self._spans, results[: len(self._spans)], strict=True)
            for (columns, _), result in placed:
                into[:, columns].copy_(result.unsqueeze(-1).flatten(1))
        return list(results[len(self._spans) :])


def graph_module(tape: Tape) -> torch.fx.GraphModule:
    """A record in the form that PyTorch's compiler takes."""
    graph = torch.fx.Graph()
    root = torch.nn.Module()
    nodes: dict[int, Any] = {i: graph.placeholder(f"v{i}") for i in range(tape.inputs)}
    for index, tensor in tape.constants.items():
        root.register_buffer(f"c{index}", tensor)
        nodes[index] = graph.get_attr(f"c{index}")
    for call in tape.calls:
        args, kwargs = substituted((call.args, call.kwargs), nodes.__getitem__)
        node = graph.call_function(call.target, args, kwargs)
        for i, result in enumerate(call.results):
            if result is not None:
                nodes[result] = graph.call_function(_item, (node, i)) if call.several else node
    graph.output([nodes[index] for index in tape.outputs])
    return torch.fx.GraphModule(root, graph)


def _item(values: Sequence[Any], index: int) -> Any:
    return values[index]


def _without_state(guards: Sequence[Any]) -> list[bool]:
    return [guard.guard_type != "GLOBAL_STATE" for guard in guards]
