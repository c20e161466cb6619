from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tuner.tasks import zoo
from tuner.errors import NotVmappable, OutOfMemory
from tuner.training import program
from tuner.training.check import _close
from tuner.training.engine import TIMED_CALLS, WARM_CALLS, Engine, Mode, Verdict
from tuner.training.population import Population
from tuner.training.trainer import Trainer

CPU = torch.device("cpu")
CONFIG = {"optimizer": "sgd", "lr": 1e-2, "batch_size": 10}


def decided(engine: Engine, rows: int, speeds: dict[str, float]) -> Mode:
    """Plays timings into an engine until it decides; seconds by the mode's text."""
    while engine.deciding(rows, 16):
        mode = engine.mode(rows, 16)
        if engine.deciding(rows, 16):
            engine.timings.setdefault((rows, 16, mode), []).append(speeds[str(mode)])
    return engine.mode(rows, 16)


def test_the_fastest_mode_is_kept_and_explained() -> None:
    engine = Engine("auto", CPU, Verdict(True, True))
    speeds = {"looped, recorded": 8.0, "fused x4, recorded": 4.0, "fused x8, recorded": 2.0}
    assert decided(engine, 8, speeds) == Mode(True, 8, "recorded")
    assert "fused x8" in engine.explanation
    assert "looped, recorded: 16/s" in engine.explanation
    calls = (WARM_CALLS + TIMED_CALLS) * len(speeds)
    assert sum(map(len, engine.timings.values())) == calls
    assert engine.wanted_slots() == 16, "the widest block won clearly, so more may pay"
    assert engine.mode(7, 16) == Mode(True, 7, "recorded"), "not timed again for fewer rows"
    assert engine.mode(8, 3) == Mode(True, 8, "recorded"), "nor for a last partial micro-batch"


def test_looping_that_wins_wants_one_trial_after_another() -> None:
    engine = Engine("auto", CPU, Verdict(True, True))
    speeds = {"looped, recorded": 1.0, "fused x4, recorded": 1.5, "fused x8, recorded": 2.0}
    assert decided(engine, 8, speeds) == Mode(False, 1, "recorded")
    assert engine.wanted_slots() == 1


def test_fewer_slots_that_are_as_fast_are_preferred() -> None:
    engine = Engine("auto", CPU, Verdict(True, True))
    speeds = {"looped, recorded": 8.0, "fused x4, recorded": 2.05, "fused x8, recorded": 2.0}
    decided(engine, 8, speeds)
    assert engine.wanted_slots() == 4


def test_out_of_memory_halves_the_block_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device that holds two slots at once trains four, to the same numbers."""
    real = program.Programs.gradients

    def tight(self: program.Programs, params: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(params) > 2 and args[2].fused:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, params, *args, **kwargs)

    def run() -> list[torch.Tensor]:
        pop = Population(zoo.MlpTask(), CONFIG, 4, dtype=torch.float64, engine="fused", check=False)
        for slot in range(4):
            pop.load(slot, {**CONFIG, "lr": 0.01 * (slot + 1)}, slot, epochs=2)
        pop.train(2 * zoo.TRAIN)
        blocks.append(pop.engine.max_block)
        return [pop.state_dict(k)["tensors"]["param.0.weight"] for k in range(4)]

    blocks: list[int] = []
    expected = run()
    monkeypatch.setattr(program.Programs, "gradients", tight)
    found = run()
    assert blocks[1] == 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("last", [False, True])
def test_a_form_that_the_device_refuses_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """The self-check runs on the CPU in double precision; other kernels may refuse later."""
    real = program.Programs._run
    refused: list[program.Form] = []

    def picky(self: program.Programs, *args: Any) -> Any:
        form = args[3]
        if form.fused and form.channels_last >= last:
            refused.append(form)
            raise RuntimeError("not inside of vmap")
        return real(self, *args)

    def run() -> tuple[Population, list[torch.Tensor]]:
        pop = Population(zoo.CnnTask(), CONFIG, 4, dtype=torch.float64, check=False)
        for slot in range(4):
            pop.load(slot, {**CONFIG, "lr": 0.01 * (slot + 1)}, slot, epochs=4)
        pop.train(4 * zoo.TRAIN)
        return pop, [pop.state_dict(k)["tensors"]["param.0.weight"] for k in range(4)]

    _, expected = run()
    monkeypatch.setattr(program.Programs, "_run", picky)
    pop, found = run()
    assert len(refused) == 1
    assert pop.engine.verdict.fused == last
    assert last or "not inside of vmap" in pop.engine.explanation
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=0)


def test_evaluation_that_the_device_refuses_is_looped(monkeypatch: pytest.MonkeyPatch) -> None:
    real = program.Programs.evaluate

    def picky(self: program.Programs, *args: Any) -> Any:
        if args[5].fused:
            raise NotVmappable("not inside of vmap")
        return real(self, *args)

    pop = Population(zoo.MlpTask(), CONFIG, 2)
    for slot in range(2):
        pop.load(slot, CONFIG, slot, epochs=2)
    expected = pop.evaluate()
    monkeypatch.setattr(program.Programs, "evaluate", picky)
    found = pop.evaluate()
    assert not pop.engine.verdict.fused
    for slot in range(2):
        assert found[slot] == pytest.approx(expected[slot], rel=1e-6)


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_evaluation_makes_do_with_the_memory_there_is(
    monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    """With smaller blocks of slots, then with fewer samples; at last it says that nothing fits."""
    real = program.Programs.evaluate
    room, most = 2, 10

    def tight(
        self: program.Programs, params: torch.Tensor, buffers: Any, x: torch.Tensor, *rest: Any
    ) -> Any:
        if (len(params) > room and rest[-1].fused) or len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, params, buffers, x, *rest)

    pop = Population(zoo.MlpTask(), CONFIG, 4, dtype=torch.float64, engine=engine, check=False)
    for slot in range(4):
        pop.load(slot, CONFIG, slot, epochs=2)
    expected = pop.evaluate()
    monkeypatch.setattr(program.Programs, "evaluate", tight)
    found = pop.evaluate()
    for slot in range(4):
        assert found[slot] == pytest.approx(expected[slot], rel=1e-12)
    most = 0
    with pytest.raises(OutOfMemory, match="one slot"):
        pop.evaluate()


def curved(engine: Any) -> tuple[Population, torch.Tensor]:
    config = {**CONFIG, "optimizer": "sophia_g", "lr": 1e-3}
    pop = Population(zoo.MlpTask(), config, 4, dtype=torch.float64, engine=engine, check=False)
    for slot in range(4):
        pop.load(slot, config, slot, epochs=2)
    pop.train(2 * zoo.TRAIN)
    return pop, torch.stack([pop.state_dict(k)["tensors"]["state.hessian."] for k in range(4)])


@pytest.mark.parametrize("trouble", ["memory", "vmap", "nothing"])
def test_curvature_makes_do_as_gradients_do(monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    real = program.Programs.curvature

    def picky(self: program.Programs, params: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if trouble == "nothing" or (trouble == "memory" and len(params) > 1):
            raise torch.OutOfMemoryError("CUDA out of memory")
        if trouble == "vmap" and kwargs["fused"]:
            raise NotVmappable("not inside of vmap")
        return real(self, params, *args, **kwargs)

    _, expected = curved("fused")
    monkeypatch.setattr(program.Programs, "curvature", picky)
    if trouble == "nothing":
        with pytest.raises(OutOfMemory, match="one slot"):
            curved("fused")
        return
    pop, found = curved("fused")
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    assert pop.engine.verdict.fused == (trouble == "memory")


def test_samples_of_a_batch_that_do_not_fit_are_gathered_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = Trainer._again, [torch.OutOfMemoryError("CUDA out of memory")]

    def again(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        yield from real(*args)

    _, expected = curved("fused")
    monkeypatch.setattr(Trainer, "_again", again)
    _, found = curved("fused")
    assert not failures
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_a_slot_that_fits_nowhere_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    pop = Population(zoo.MlpTask(), CONFIG, 2, check=False)
    pop.load(0, CONFIG, 0, epochs=2)
    monkeypatch.setattr(program.Programs, "gradients", full)
    with pytest.raises(OutOfMemory, match="one slot"):
        pop.train(zoo.TRAIN)


@pytest.mark.parametrize("task", [zoo.LstmTask, zoo.MlpTask])
def test_the_self_check_names_what_is_slow(task: type[zoo.MlpTask]) -> None:
    pop = Population(task(), CONFIG, 2)
    hint = "recurrent (LSTM" in pop.engine.verdict.reason
    assert hint == (task is zoo.LstmTask)


def test_long_training_is_compiled_and_goes_on_to_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The optimizer's kernel and then the program; results stay within rounding."""

    def run() -> tuple[Population, torch.Tensor]:
        pop = Population(zoo.MlpTask(), CONFIG, 2, dtype=torch.float64, check=False)
        for slot in range(2):
            pop.load(slot, {**CONFIG, "momentum": 0.9 * slot}, slot, epochs=4)
        for _ in range(4):
            pop.train(zoo.TRAIN)
        return pop, pop.state_dict(1)["tensors"]["param.0.weight"]

    plain, expected = run()
    assert not plain.trainer.compiled_steps
    monkeypatch.setattr("tuner.training.population.COMPILE_STEPS_AFTER", 0.0)
    monkeypatch.setattr("tuner.training.population.COMPILE_PROGRAM_AFTER", 0.0)
    compiled, found = run()
    assert compiled.trainer.compiled_steps
    assert "compiled" in compiled.engine.explanation
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_forms_that_are_not_finite_alike_must_agree_in_the_rest() -> None:
    nan, inf = torch.nan, torch.inf
    expected = torch.tensor([nan, 1.0, -inf], dtype=torch.float64)
    assert _close(expected.clone(), expected)
    for other in ([nan, 2.0, -inf], [nan, nan, -inf], [nan, 1.0, inf], [0.0, 1.0, -inf]):
        assert not _close(torch.tensor(other, dtype=torch.float64), expected)
