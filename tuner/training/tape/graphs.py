"""Recorded programs as CUDA graphs: one launch for all of a program's kernels.

The kernels of a small model run for a few microseconds each, less than it takes to launch them one
by one. A graph reads and writes fixed places in memory: arguments are copied to places of its own,
but for the parameters and gradients of a block of rows, which keep theirs; for each place of those
there is a graph. Rows that run one after another share one, in a place of its own.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from tuner.training.tape.emit import MOST_BINDINGS, Program
from tuner.training.tape.passes import tidy
from tuner.training.tape.plan import Spans
from tuner.training.tape.recorder import record

log = logging.getLogger(__name__)

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


class _Pool:
    """Memory that all graphs of a device share, for as long as there are any.

    They run one after another, and what they give is copied at once.
    """

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle()


_pools: WeakValueDictionary[torch.device, _Pool] = WeakValueDictionary()


@cache
def _side_stream(device: torch.device) -> Any:
    """Where a device's graphs are made: cuBLAS keeps a workspace for every stream it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own


@dataclass
class _Graph:
    """A graph and its places.

    Args:
        graph: What to launch.
        first: Parameters.
        into: Where gradients go.
        arguments: The others.
        results: What it gives.
        held: What the arguments were copied from last, and which version of it.
    """

    graph: Any
    first: Tensor
    into: Tensor | None
    arguments: list[Tensor]
    results: list[Tensor]
    held: list[tuple[Tensor, int] | None] = field(default_factory=list)

    def take(self, others: Sequence[Tensor]) -> None:
        """Copies the arguments that are not those of the last call."""
        for i, (own, given) in enumerate(zip(self.arguments, others, strict=True)):
            before = self.held[i]
            version = None if given.is_inference() else given._version
            if before is None or before[0] is not given or before[1] != version:
                own.copy_(given, non_blocking=True)
                self.held[i] = None if version is None else (given, version)


class _Graphed:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._pool: _Pool | None = None
        self._refused = False

    def __call__(self, arguments: Sequence[Tensor], into: Tensor | None = None) -> list[Tensor]:
        if self._refused:
            return self._program(arguments, into)
        first, *others = arguments
        alone = len(first) == 1
        key = (0, 0) if alone else (first.data_ptr(), 0 if into is None else into.data_ptr())
        graph = self._graphs.get(key)
        if graph is None:
            if len(self._graphs) >= MOST_BINDINGS:
                self._forget()
            try:
                graph = self._graphs[key] = self._made(first, others, into, copied=alone)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._refused = True
                self._forget()
                log.warning("no CUDA graph: %s", str(error).strip().partition("\n")[0])
                return self._program(arguments, into)
        graph.take(others)
        if alone:
            graph.first.copy_(first, non_blocking=True)
        graph.graph.replay()
        if alone and into is not None and graph.into is not None:
            into.copy_(graph.into, non_blocking=True)
        # The next replay overwrites them.
        return [result.clone() for result in graph.results]

    def _forget(self) -> None:
        self._graphs.clear()
        self._pool = None  # CUDA takes none back that no graph uses

    def _made(
        self, first: Tensor, others: Sequence[Tensor], into: Tensor | None, *, copied: bool
    ) -> _Graph:
        if copied:
            first = first.clone()
            into = None if into is None else torch.empty_like(into)
        own = [torch.empty_like(t).copy_(t) for t in others]
        graph, results = self._capture([first, *own], into)
        return _Graph(graph, first, into, own, results, [None] * len(own))

    def _capture(self, arguments: list[Tensor], into: Tensor | None) -> tuple[Any, list[Tensor]]:
        """The program on these places as a graph, and where its results are."""
        device = arguments[0].device
        side = _side_stream(device)
        with torch.cuda.device(device):
            side.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(side), _errors_on_waiting():
                    for _ in range(WARM_RUNS):
                        self._program(arguments, into)
            finally:
                # Also where it is refused: what runs instead writes to the same gradients, and
                # takes the memory of these arguments.
                torch.cuda.current_stream().wait_stream(side)
            self._pool = _pools.get(device) or _Pool()
            _pools[device] = self._pool  # which holds it only while somebody else does
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            # What earlier runs have left in reserve, on either stream, no capture may take: in a
            # device that is planned to the full it would run out of memory.
            torch.cuda.empty_cache()
            # Not ``torch.cuda.graph``: its stream is of the device that is current at first, and
            # stays the current one where a capture fails.
            with torch.cuda.stream(side), _no_garbage():
                graph.capture_begin(pool=self._pool.handle)
                try:
                    results = self._program(arguments, into)
                finally:
                    graph.capture_end()
        return graph, results


@contextmanager
def _errors_on_waiting() -> Iterator[None]:
    """Has CUDA raise an error at whatever waits for the device, as no capture survives that."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype, says PyTorch
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Keeps Python from freeing another graph in the middle, which would end a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
