from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.tuner.tasks import zoo
from tuner import optimizers, tasks
from tuner.advisor.memory import Footprint
from tuner.tasks import Arrays, Config, Splits, Task
from tuner.training import Population, TrainingData, program
from tuner.training.memory import SlotMemory, _allocated, measure
from tuner.training.tape import recorded

CPU = torch.device("cpu")
ZOO = [
    zoo.MlpTask,
    zoo.CnnTask,
    zoo.BatchNormTask,
    zoo.NormsTask,
    zoo.LstmTask,
    zoo.TransformerTask,
    zoo.TiedTask,
    zoo.DropoutTask,
    zoo.MappingTask,
]


@pytest.mark.parametrize("kind", ZOO, ids=lambda kind: kind.__name__)
def test_every_kind_of_model_can_be_measured(kind: type[Task]) -> None:
    found = measure(kind(), {"optimizer": "adamw"}, device=CPU)
    assert found.resident > 0
    assert found.peaks.per_sample > 0
    assert found.at(64) > found.at(8) > found.resident


def test_what_is_resident_is_what_a_population_allocates() -> None:
    task = zoo.MlpTask()
    population = Population(task, {}, 5)
    population.load(0, {"optimizer": "adamw"}, 0, epochs=1)
    rows = population.rows
    allocated = rows.gradient.nbytes + sum(tensor.nbytes for tensor in rows.everything())
    assert 5 * measure(task, {"optimizer": "adamw"}, device=CPU).resident == allocated


def test_small_states_count_as_two_and_larger_ones_as_they_are() -> None:
    task, found = zoo.MlpTask(), {}
    for name in ("sgd", "adamw", "ademamix"):
        found[name] = measure(task, {"optimizer": name}, device=CPU).resident
    assert found["sgd"] == found["adamw"]
    parameters = sum(p.numel() for p in task.model({}).parameters())
    assert found["ademamix"] == found["adamw"] + 4 * parameters
    assert optimizers.get("ademamix").state_bytes_per_parameter(4) == 12


def test_activations_are_those_of_a_layer_cake() -> None:
    """A dense network keeps its input, and each layer's output: nothing else grows."""
    digits = tasks.get("digits")()
    narrow, wide = (
        measure(digits, {"model.hidden": hidden, "model.layers": 3}, device=CPU).peaks.per_sample
        for hidden in (32, 64)
    )
    # Input 64 and 10 log-probabilities, twice what a layer gives at most; 8 bytes of target.
    assert 4 * (64 + 3 * 32 + 10) <= narrow <= 4 * (64 + 2 * 3 * 32 + 4 * 10) + 8
    assert 4 * 3 * 32 <= wide - narrow <= 2 * 4 * 3 * 32


@pytest.mark.parametrize("kind", [zoo.MlpTask, zoo.LstmTask], ids=lambda kind: kind.__name__)
def test_nothing_is_kept_of_what_was_measured(
    kind: type[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker measures for every study."""
    seen: list[weakref.ref[nn.Parameter]] = []
    made = kind.model

    def model(self: Task, config: Config) -> nn.Module:
        module = made(self, config)
        seen.extend(weakref.ref(parameter) for parameter in module.parameters())
        return module

    monkeypatch.setattr(kind, "model", model)
    measure(kind(), {"optimizer": "adamw"}, device=CPU)
    gc.collect()
    assert seen
    assert not any(parameter() is not None for parameter in seen)


def test_the_count_agrees_with_what_a_process_takes() -> None:
    """Eight wide layers at 4096 samples: the graph's own memory, watched from outside."""
    digits = tasks.get("digits")()
    config: dict[str, Any] = {"model.hidden": 256, "model.layers": 8, "model.activation": "tanh"}
    data = TrainingData(digits, CPU, torch.float32)
    line = measure(digits, config, device=CPU, data=data).peaks
    model = digits.model(config)
    x, y = data.train.take(torch.arange(1024))
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        loss = digits.loss(model(x), y, {"label_smoothing": torch.tensor(0.0)}).sum()
    kept = sum(
        event.self_cpu_memory_usage for event in profile.key_averages()
    )  # allocated less freed, while the graph lives
    del loss
    gc.collect()
    assert line.per_sample * 1024 == pytest.approx(kept, rel=0.15)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    resident=st.floats(1.0, 1e9),
    moving=st.floats(0.0, 1e9),
    per_sample=st.floats(0.0, 1e8),
    budget=st.floats(1.0, 1e12),
    slots=st.integers(1, 1024),
    batch=st.integers(1, 4096),
)
def test_what_fits_fits(
    resident: float, moving: float, per_sample: float, budget: float, slots: int, batch: int
) -> None:
    memory = SlotMemory(resident, Footprint(resident + moving, per_sample))
    count, micro_batch = memory.fit(budget, slots, batch)
    assert 1 <= count <= slots
    assert micro_batch >= 1
    if count > 1:
        assert count * memory.at(batch) <= budget * (1 + 1e-9)
        assert micro_batch >= batch
    if micro_batch > 1 and per_sample > 0:
        assert count * memory.at(micro_batch) <= budget * (1 + 1e-6)
    if count < slots:
        assert (count + 1) * memory.at(batch) > budget * (1 - 1e-9)


def test_a_batch_too_large_is_cut() -> None:
    memory = SlotMemory(1000.0, Footprint(1500.0, 100.0))
    assert memory.fit(11_500.0, 8, 4096) == (1, 100)
    assert memory.fit(11_500.0, 8, 8) == (5, 8)
    assert memory.fit(500.0, 8, 8) == (1, 1)
    least = math.ulp(0.0)
    assert SlotMemory(1000.0, Footprint(1500.0, least)).fit(500.0, 8, 8) == (1, 1)


@pytest.mark.parametrize("samples", [96, 40], ids=["whole batches", "an epoch of one batch"])
def test_peaks_on_a_gpu_are_taken_of_graphs(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    """Whose memory is their own, and held all the time: here they are records of the CPU."""
    sizes: list[int] = []

    def made(function: Any, leaves: Any, spans: Any) -> Any:
        sizes.append(len(leaves[1]))
        return recorded(function, leaves, spans)

    class Few(zoo.MlpTask):
        def data(self) -> Splits:
            train = zoo.vectors().train
            assert isinstance(train, Arrays)
            return Splits(Arrays(train.x[:samples], train.y[:samples]), zoo.vectors().valid)

    monkeypatch.setattr(program, "_MAKERS", {**program._MAKERS, "recorded": made})
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 0)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda _: 2 * sum(sizes))
    task = Few()
    data = TrainingData(task, CPU, torch.float32)
    peaks = _allocated(task, {"optimizer": "adamw"}, [8, 32], CPU, torch.float32, data)
    # Each of the first batches is taken in halves, to measure its noise.
    assert {4, 8, 16} <= set(sizes)
    assert (32 in sizes) == (samples > 2 * 32)
    assert peaks[1] > peaks[0] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_on_a_gpu_bounds_what_a_population_reserves() -> None:
    device = torch.device("cuda")
    digits = tasks.get("digits_cnn")()
    config = {"optimizer": "adamw", "batch_size": 256, "model.width": 64, "lr": 1e-3}
    data = TrainingData(digits, device, torch.float32)
    found = measure(digits, config, device=device, data=data)
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    population = Population(digits, config, 8, device=device, data=data, check=False)
    for slot in range(8):
        population.load(slot, config, slot, epochs=1.0)
    for _ in range(3):
        population.train(256)
    assert torch.cuda.max_memory_reserved(device) - before <= 1.25 * 8 * found.at(256)
