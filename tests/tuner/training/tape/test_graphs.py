"""Where a graph reads and writes: a replay here runs the program on the graph's own places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tuner.tasks import zoo
from tests.tuner.training.test_population import CONFIGS, EPOCHS, assert_same, params, plain_loop
from tuner.tasks import Task
from tuner.training import program
from tuner.training.population import Population
from tuner.training.tape import Program, graphs, record, tidy
from tuner.training.tape.graphs import _Graphed
from tuner.training.tape.plan import Spans


class Replayed(_Graphed):
    """Captures nothing: each replay runs the program."""

    def _capture(self, arguments: list[Tensor], into: Tensor | None) -> tuple[Any, list[Tensor]]:
        results = [result.clone() for result in self._program(arguments, into)]

        def replay() -> None:
            for place, found in zip(results, self._program(arguments, into), strict=True):
                place.copy_(found)

        return SimpleNamespace(replay=replay), results


def replayed(
    function: Callable[..., list[Tensor]], arguments: Sequence[Tensor], spans: Spans = ()
) -> Replayed:
    tape, _ = record(function, arguments)
    tidy(tape)
    return Replayed(Program(tape, spans))


@pytest.mark.parametrize("engine", ["auto", "looped"])
@pytest.mark.parametrize("kind", [zoo.MlpTask, zoo.CnnTask, zoo.DropoutTask])
def test_a_population_of_graphs_is_plain_loops(
    monkeypatch: pytest.MonkeyPatch, kind: type[Task], engine: Any
) -> None:
    """Arguments that are those of the last call are not copied; changed ones are."""
    monkeypatch.setattr(program, "HOT", 1)
    monkeypatch.setattr(program, "_MAKERS", {**program._MAKERS, "recorded": replayed})
    task = kind()
    pop = Population(task, CONFIGS[0], 4, dtype=torch.float64, engine=engine)
    for slot, config in enumerate(CONFIGS):
        pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot, config in enumerate(CONFIGS):
        assert_same(params(pop, slot), plain_loop(task, config, slot), 1e-12)


def test_rows_that_run_alone_share_a_graph() -> None:
    """A graph for each of a thousand rows would take as long to make as their training."""
    weights = torch.randn(5, 3)
    run = replayed(lambda p, x: [p * x, (p * x).sum(1)], [weights[:1], torch.ones(3)])
    for x in (torch.ones(3), torch.arange(3.0)):
        for row in range(5):
            product, total = run([weights[row : row + 1], x])
            torch.testing.assert_close(product, weights[row : row + 1] * x)
            torch.testing.assert_close(total, (weights[row : row + 1] * x).sum(1))
    assert len(run._graphs) == 1


def test_an_argument_that_was_written_to_is_copied_again() -> None:
    weights, x = torch.randn(2, 3), torch.ones(3)
    run = replayed(lambda p, x: [p * x], [weights, x])
    run([weights, x])
    x.mul_(2.0)
    torch.testing.assert_close(run([weights, x])[0], 2.0 * weights)
    with torch.inference_mode():
        unversioned = torch.full((3,), 3.0)
        torch.testing.assert_close(run([weights, unversioned])[0].clone(), 3.0 * weights)
        unversioned.mul_(2.0)
        torch.testing.assert_close(run([weights, unversioned])[0].clone(), 6.0 * weights)


def test_what_cannot_be_captured_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Replayed):
        def _capture(self, *_: Any) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

    weights = torch.randn(2, 3)
    run = Refusing(replayed(lambda p: [2 * p], [weights])._program)
    for _ in range(2):
        torch.testing.assert_close(run([weights])[0], 2 * weights)
    assert caplog.text.count("no CUDA graph: operation not permitted") == 1


class _Stream:
    def __init__(self, name: str, asked: list[Any]) -> None:
        self.name = name
        self.asked = asked

    def wait_stream(self, other: _Stream) -> None:
        self.asked.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What CUDA is asked for, in order, where there is none."""
    asked: list[Any] = []
    handles = iter(range(1, 9))
    graph = SimpleNamespace(
        capture_begin=lambda pool: asked.append(("begin", pool)),
        capture_end=lambda: asked.append("end"),
    )
    fakes = {
        "graph_pool_handle": lambda: next(handles),
        "current_stream": lambda: _Stream("main", asked),
        "stream": nullcontext,
        "device": nullcontext,
        "CUDAGraph": lambda: graph,
        "synchronize": lambda: None,
        "empty_cache": lambda: asked.append("empty"),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda _: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(graphs, "_side_stream", lambda _: _Stream("side", asked))
    return asked


def test_graphs_of_a_device_share_a_pool_and_begin_with_free_memory(asked: list[Any]) -> None:
    """No capture takes cached memory."""
    weights = torch.ones(2, 3)
    tape, _ = record(lambda p: [2 * p], [weights])
    several = [_Graphed(Program(tape)) for _ in range(2)]
    for each in several:
        _, results = each._capture([weights], None)
        torch.testing.assert_close(results[0].clone(), 2 * weights)
    warm = ["side waits for main", "main waits for side"]
    assert asked == [*warm, "empty", ("begin", 1), "end"] * 2
    several.clear()
    del each
    assert not graphs._pools


def test_what_a_refused_program_has_begun_is_waited_for(asked: list[Any]) -> None:
    """It goes on while the program runs as it is, on the stream that is current."""

    class Waiting(Program):
        runs = 0

        def __call__(self, *arguments: Any) -> list[Tensor]:
            self.runs += 1
            if self.runs == 2:
                raise RuntimeError("called a synchronizing CUDA operation")
            asked.append("runs")
            return super().__call__(*arguments)

    weights = torch.ones(2, 3)
    tape, _ = record(lambda p: [2 * p], [weights])
    torch.testing.assert_close(_Graphed(Waiting(tape))([weights])[0], 2 * weights)
    assert asked == ["side waits for main", "runs", "main waits for side", "runs"]
