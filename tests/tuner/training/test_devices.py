"""One path for all devices: whatever a population does on one, its numbers are those of a plain
loop on the CPU. Where there is no GPU the same tests run on the CPU alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.devices import CPU, each_device, each_gpu
from tests.tuner.tasks import zoo
from tests.tuner.training.test_population import (
    CONFIGS,
    EPOCHS,
    VMAPPABLE,
    assert_same,
    params,
    plain_loop,
)
from tuner.optimizers import kernels
from tuner.tasks import Task
from tuner.training import program, rows, source
from tuner.training.population import Population


def population(task: Task, device: torch.device, slots: int = 4, **options: Any) -> Population:
    return Population(task, CONFIGS[0], slots, device=device, **{"dtype": torch.float64, **options})


def load_all(pop: Population) -> None:
    for slot, config in enumerate(CONFIGS):
        pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)


def on_cpu(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in found.items()}


def trained_as_plain_loops(task: Task, pop: Population) -> None:
    load_all(pop)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot, config in enumerate(CONFIGS):
        assert_same(on_cpu(params(pop, slot)), plain_loop(task, config, slot), 1e-9)


@each_device
@pytest.mark.parametrize("hot", [1, 1_000], ids=["recorded", "eager"])
@pytest.mark.parametrize("kind", VMAPPABLE, ids=lambda kind: kind.__name__)
def test_a_slot_is_a_plain_loop_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, kind: type[Task], hot: int
) -> None:
    """The engine's own choice; on a GPU what is recorded is a CUDA graph."""
    monkeypatch.setattr(program, "HOT", hot)
    task = kind()
    trained_as_plain_loops(task, population(task, device))


@each_device
@pytest.mark.parametrize("kind", [zoo.CnnTask, zoo.BatchNormTask, zoo.NormsTask])
def test_images_lie_either_way_in_single_precision(device: torch.device, kind: type[Task]) -> None:
    """Whose kernels are not those of double precision, in which the self-check compares."""
    task = kind()
    config = {**CONFIGS[1], "batch_size": 10}
    pop = population(task, device, dtype=torch.float32)
    for slot in range(4):
        pop.load(slot, {**config, "lr": 0.02 * (slot + 1)}, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    tried = pop.engine.explanation
    assert "fused x4" in tried
    assert "channels last" in tried
    assert pop.engine.verdict.fused
    assert pop.engine.verdict.images
    for slot in range(4):
        expected = plain_loop(task, {**config, "lr": 0.02 * (slot + 1)}, slot)
        found = {name: tensor.double() for name, tensor in on_cpu(params(pop, slot)).items()}
        assert_same(found, expected, 2e-3)


@each_device
def test_a_recurrent_model_and_one_with_buffers(device: torch.device) -> None:
    for kind in (zoo.LstmTask, zoo.BatchNormTask):
        task = kind()
        pop = population(task, device, 1)
        pop.load(0, CONFIGS[0], seed=1, epochs=EPOCHS, data_seed=5)
        pop.train(EPOCHS * zoo.TRAIN)
        assert_same(on_cpu(params(pop, 0)), plain_loop(task, CONFIGS[0], 1), 1e-9)


@each_device
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", [zoo.MlpTask, zoo.CnnTask], ids=lambda kind: kind.__name__)
def test_rows_may_have_gaps_between_them(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, kind: type[Task], compiled: bool
) -> None:
    """As they have on a GPU, whose kernels read from aligned places only."""
    monkeypatch.setattr(rows, "ALIGNED", {device.type: 256})
    monkeypatch.setattr(kernels, "COMPILED_FROM", 1)
    task = kind()
    pop = population(task, device)
    assert not pop.rows.params.is_contiguous()
    assert pop.rows.params.stride(0) % 32 == 0
    pop.trainer.compiled_steps = compiled
    trained_as_plain_loops(task, pop)


@each_device
def test_data_that_does_not_fit_the_device_is_sent_to_it(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    monkeypatch.setattr(source, "DEVICE_SHARE", 0.0)
    task = zoo.CnnTask()
    pop = population(task, device)
    assert pop.data.train.resident == (device.type == "cpu")
    trained_as_plain_loops(task, pop)


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
@pytest.mark.parametrize(("share", "fits"), [(1.0, True), (0.25, False)])
def test_of_a_shared_gpu_a_data_set_takes_no_more_than_its_part(
    monkeypatch: pytest.MonkeyPatch, share: float, fits: bool, name: str
) -> None:
    samples = zoo.MlpTask().data().train
    size = samples.x.nbytes + samples.y.nbytes
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (3 * size, 3 * size))
    # Below torch's own function, which is particular about what names a device.
    monkeypatch.setattr("torch.cuda.memory._lazy_init", lambda: None)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch._C._cuda_getMemoryFraction", lambda _: share, raising=False)
    opened: list[bool] = []
    monkeypatch.setattr(source, "ArraySource", lambda *_, resident: opened.append(resident))
    source.open_source(samples, torch.device(name), torch.float32)
    assert opened == [fits]


@each_device
def test_paused_on_one_device_it_goes_on_on_the_cpu(device: torch.device) -> None:
    task = zoo.MlpTask()
    first = population(task, device)
    load_all(first)
    first.train(zoo.TRAIN + 14)
    second = population(task, CPU, 2)
    for slot in (3, 1):
        second.load_state_dict(first.state_dict(slot), slot // 3)
    second.train((EPOCHS - 1) * zoo.TRAIN - 14)
    for slot in (3, 1):
        expected = plain_loop(task, CONFIGS[slot], slot)
        assert_same(params(second, slot // 3), expected, 1e-9)


def come_and_gone(task: Task, device: torch.device) -> torch.Tensor:
    """All parameters after slots were refilled, copied, put back, and trained by other lengths."""
    pop = population(task, device)
    load_all(pop)
    pop.train(37)
    pop.evict(1)
    pop.train(20)
    pop.load(1, {**CONFIGS[2], "optimizer": "shampoo"}, seed=9, epochs=EPOCHS, data_seed=6)
    pop.train({0: 30, 1: 41, 3: 7})
    kept = pop.state_dict(3)
    pop.copy(2, 0, {**CONFIGS[0], "optimizer": "sophia_g", "batch_size": 12})
    pop.train(25)
    pop.evict(0)
    pop.load_state_dict(kept, 0)
    pop.train(33)
    return torch.cat([t.flatten() for slot in pop.active for t in params(pop, slot).values()])


@each_gpu
@pytest.mark.parametrize(
    "kind", [zoo.MlpTask, zoo.DropoutTask, zoo.LstmTask], ids=lambda kind: kind.__name__
)
def test_slots_come_and_go_as_on_the_cpu(device: torch.device, kind: type[Task]) -> None:
    expected = come_and_gone(kind(), CPU)
    error = (come_and_gone(kind(), device) - expected).norm() / expected.norm()
    assert error <= 1e-9, f"{float(error):.2e}"


@each_device
def test_evaluation_is_that_on_the_cpu(device: torch.device) -> None:
    task = zoo.TransformerTask()
    found = []
    for where in (device, CPU):
        pop = population(task, where)
        load_all(pop)
        pop.train(zoo.TRAIN)
        found.append([pop.evaluate()[slot] for slot in range(len(CONFIGS))])
    for there, here in zip(*found, strict=True):
        assert there.keys() == here.keys()
        for name in here:
            assert there[name] == pytest.approx(here[name], rel=1e-8)


@each_device
@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_half_precision_learns_as_single_precision_does(device: torch.device, engine: Any) -> None:
    losses = []
    for autocast in (None, torch.bfloat16):
        pop = population(
            zoo.MlpTask(), device, dtype=torch.float32, autocast=autocast, engine=engine
        )
        load_all(pop)
        pop.train(EPOCHS * zoo.TRAIN)
        losses.append([pop.evaluate()[slot]["val_loss"] for slot in range(len(CONFIGS))])
    for half, single in zip(*reversed(losses), strict=True):
        assert half == pytest.approx(single, rel=0.1)
