"""Recorded programs as CUDA graphs: one launch for all of a program's kernels.

The kernels of a small model run for a few microseconds each, less than it takes to launch them one
by one. A graph reads and writes fixed places in memory: arguments are copied to places of its own,
but for parameters and gradients, which keep theirs; for each place of those there is a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tuner.training.tape.emit import MOST_BINDINGS, Program
from tuner.training.tape.passes import tidy
from tuner.training.tape.plan import Spans
from tuner.training.tape.recorder import record

WARM_RUNS = 3
"""Runs on a side stream before a capture, as PyTorch asks for."""


def graphed(
    function: Callable[..., list[Tensor]], arguments: Sequence[Tensor], spans: Spans = ()
) -> Callable[[Sequence[Tensor], Tensor | None], list[Tensor]]:
    """A function recorded as CUDA graphs; arguments as of :func:`tuner.training.tape.recorded`."""
    tape, _ = record(function, arguments)
    tidy(tape)
    program = Program(tape, spans)
    return _Graphed(program) if arguments[0].is_cuda else program


@dataclass
class _Graph:
    graph: torch.cuda.CUDAGraph
    arguments: list[Tensor]
    results: list[Tensor]


class _Graphed:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._graphs: dict[tuple[int, int], _Graph] = {}
        # Graphs run one after another and their results are copied at once, so they share memory.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, arguments: Sequence[Tensor], into: Tensor | None = None) -> list[Tensor]:
        first, *others = arguments
        key = (first.data_ptr(), 0 if into is None else into.data_ptr())
        held = self._graphs.get(key)
        if held is None:
            if len(self._graphs) >= MOST_BINDINGS:
                self._graphs.clear()
            held = self._graphs[key] = self._capture(first, others, into)
        torch._foreach_copy_(held.arguments, others)
        held.graph.replay()
        # The next replay overwrites them.
        return [result.clone() for result in held.results]

    def _capture(self, first: Tensor, others: Sequence[Tensor], into: Tensor | None) -> _Graph:
        own = [torch.empty_like(t).copy_(t) for t in others]
        side: Any = torch.cuda.Stream(first.device)  # type: ignore[no-untyped-call]  # torch's own
        side.wait_stream(torch.cuda.current_stream(first.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_RUNS):
                self._program((first, *own), into)
        torch.cuda.current_stream(first.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            results = self._program((first, *own), into)
        return _Graph(graph, own, results)
