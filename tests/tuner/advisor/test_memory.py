"""Bytes against published figures and against torch's own tensors."""

from __future__ import annotations

import doctest
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner import optimizers
from tuner.advisor import memory as mem
from tuner.errors import InvalidInput, UnknownName


def test_the_docstring_examples_run() -> None:
    assert doctest.testmod(mem).failed == 0


@pytest.mark.parametrize(
    ("optimizer", "state"),
    [
        ("adagrad", 4),
        ("lion", 4),
        ("muon", 4),
        ("lars", 4),
        ("momentum", 4),
        ("adam", 8),
        ("adamw", 8),
        ("grams", 8),
        ("lamb", 8),
        ("cautious_adamw", 8),
        ("amsgrad", 12),
        ("mars", 12),
        ("ademamix", 12),
        ("adan", 16),
        ("nadam", 8),
        ("schedule_free_adamw", 8),
        ("prodigy", 16),
        ("shampoo", 4 + 2 * 4 * 2),
        ("soap", 8 + 2 * 4 * 2),
    ],
)
def test_published_state_bytes(optimizer: str, state: float) -> None:
    assert mem.state_bytes(optimizer) == pytest.approx(state, rel=0.01)
    assert mem.bytes_per_parameter(optimizer).total == pytest.approx(8 + state, rel=0.01)


@pytest.mark.parametrize(
    ("optimizer", "made", "state"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1), 0.0),
        ("rmsprop", torch.optim.RMSprop, 4.0),
    ],
)
def test_what_torchs_own_keeps_without_momentum(optimizer: str, made: Any, state: float) -> None:
    weight = torch.nn.Parameter(torch.ones(256, 256))
    stepped = made([weight])
    weight.grad = torch.ones_like(weight)
    stepped.step()
    held = [v for v in stepped.state[weight].values() if torch.is_tensor(v) and v.ndim == 2]
    assert sum(v.nbytes for v in held) / weight.numel() == state == mem.PLAIN[optimizer]
    assert mem.state_bytes(optimizer) == state + 4
    assert any(f"keeps {state:g} bytes" in text for text in mem.memory(optimizer, 1000).cautions)


def test_adafactor_is_nearly_free_and_shampoo_is_not() -> None:
    assert mem.state_bytes("adafactor") < 0.1
    assert mem.state_bytes("shampoo") >= 16


@pytest.mark.parametrize(
    ("optimizer", "precision", "parameters", "total"),
    [
        ("adamw", "fp32", 124_000_000, 1.984e9),
        ("adamw", "mixed", 7_000_000_000, 112e9),
        ("momentum", "mixed", 7_000_000_000, 84e9),
        ("lion", "mixed", 7_000_000_000, 84e9),
        ("adamw", "bf16", 7_000_000_000, 56e9),
        ("adamw", "autocast", 1_000_000, 18e6),
    ],
)
def test_published_totals(optimizer: str, precision: str, parameters: int, total: float) -> None:
    advice = mem.memory(optimizer, parameters, precision=precision)  # type: ignore[arg-type]
    assert advice.parameter_bytes == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("optimizer", optimizers.names())
@pytest.mark.parametrize("precision", list(mem.PRECISIONS))
def test_every_optimizer_in_every_precision(optimizer: str, precision: str) -> None:
    found = mem.bytes_per_parameter(optimizer, precision)  # type: ignore[arg-type]
    assert found.total >= 4
    assert found.to_dict()["total"] == found.total


def test_counted_bytes_are_those_of_a_real_step() -> None:
    """Weights, gradients and state of one linear layer after a step of the ordinary optimizer."""
    layer = torch.nn.Linear(256, 256, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 256)).sum().backward()
    optimizer.step()
    held = [layer.weight, layer.weight.grad, *optimizer.state[layer.weight].values()]
    real = sum(t.numel() * t.element_size() for t in held if t is not None and t.ndim == 2)
    assert mem.bytes_per_parameter("adamw").total * 256 * 256 == real


class TestActivations:
    def test_published_case(self) -> None:
        assert mem.transformer_activations(1024, 8, 768, 12) == 717_225_984

    def test_flash_attention_drops_the_scores(self) -> None:
        flash = mem.transformer_activations(1024, 8, 768, 12, flash=True)
        assert flash == 34 * 1024 * 8 * 768
        assert mem.transformer_activations(1024, 8, 768, 12) - flash == 5 * 12 * 1024**2 * 8

    def test_layers_and_batch_multiply(self) -> None:
        one = mem.transformer_activations(128, 1, 64, 4)
        assert mem.transformer_activations(128, 6, 64, 4, layers=3) == 18 * one

    def test_two_measurements_are_a_line(self) -> None:
        line = mem.measured([8, 24], [1.8e9, 3.4e9])
        assert line.at(16) == pytest.approx(2.6e9)

    @given(st.floats(0, 1e10), st.floats(0, 1e9), st.lists(st.integers(1, 4096), min_size=2))
    @settings(deadline=None, derandomize=True)
    def test_any_line_is_recovered(self, fixed: float, slope: float, sizes: list[int]) -> None:
        sizes = sorted(set(sizes))
        if len(sizes) < 2:
            sizes = [*sizes, sizes[0] + 1]
        line = mem.measured(sizes, [fixed + slope * b for b in sizes])
        for size in sizes:
            assert line.at(size) == pytest.approx(fixed + slope * size, rel=1e-6, abs=1e-3)

    @pytest.mark.parametrize(
        ("sizes", "peaks", "field"),
        [([8], [1.0], "batch_sizes"), ([8, 8], [1, 2], "batch_sizes"), ([8, 16], [2, 1], "peaks")],
    )
    def test_what_is_no_line(self, sizes: list[int], peaks: list[float], field: str) -> None:
        with pytest.raises(InvalidInput, match=field):
            mem.measured(sizes, peaks)


class TestTrials:
    def test_published_case(self) -> None:
        assert mem.trials_per_device(80e9, 1.984e9, 5e9, 0.5e9) == 10
        assert mem.trials_per_device(80e9, 1.984e9, 5e9, 0.5e9, processes="each") == 9

    @given(st.floats(1e9, 1e12), st.floats(1e6, 1e10), st.floats(0, 1e10), st.floats(0, 1e9))
    @settings(deadline=None, derandomize=True)
    def test_what_is_promised_fits_and_one_more_does_not(
        self, capacity: float, parameters: float, activations: float, context: float
    ) -> None:
        count = mem.trials_per_device(capacity, parameters, activations, context)
        each = parameters + activations
        assert count >= 0
        assert count == 0 or count * each + context <= 0.9 * capacity * (1 + 1e-9)
        assert (count + 1) * each + context > 0.9 * capacity * (1 - 1e-9)
        apart = mem.trials_per_device(capacity, parameters, activations, context, processes="each")
        assert apart <= max(count, 1)

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"capacity": 0.0}, "capacity"),
            ({"parameters": float("nan")}, "parameters"),
            ({"activations": -1.0}, "activations"),
            ({"headroom": 1.5}, "headroom"),
            ({"processes": "two"}, "processes"),
        ],
    )
    def test_impossible_values(self, arguments: dict[str, object], field: str) -> None:
        given_values = {"capacity": 1e9, "parameters": 1e6, "activations": 1e6} | arguments
        with pytest.raises(InvalidInput, match=field):
            mem.trials_per_device(**given_values)  # type: ignore[arg-type]


class TestAdvice:
    def test_measured_peaks_win(self) -> None:
        peaks = mem.measured([8, 24], [2.384e9, 3.184e9])
        advice = mem.memory(
            "adamw", 124_000_000, batch_size=100, peaks=peaks, capacity=80e9, context=0.5e9
        )
        assert advice.basis == "measured"
        assert advice.activation_bytes == pytest.approx(peaks.at(100) - 1.984e9)
        assert advice.trials_one_process == 10
        assert advice.trials_each == 9
        assert not advice.cautions

    def test_the_largest_batch_fits_and_one_more_does_not(self) -> None:
        line = mem.Footprint(1e8, 3e7)
        advice = mem.memory(
            "adamw", 10_000_000, batch_size=16, activations=line, capacity=16e9, context=4e8
        )
        largest = advice.largest_batch
        assert largest is not None

        def fits(batch: int) -> bool:
            return advice.parameter_bytes + line.at(batch) + 4e8 <= 0.9 * 16e9

        assert fits(largest)
        assert not fits(largest + 1)

    def test_without_activations_nothing_is_promised(self) -> None:
        advice = mem.memory("adamw", 1000, capacity=1e9)
        assert advice.trials_one_process is None
        assert "often outweigh" in str(advice)

    def test_formula_is_a_caution(self) -> None:
        advice = mem.memory("adamw", 1000, activations=mem.Footprint(0, 1e6), capacity=1e9)
        assert advice.basis == "formula"
        assert any("fragmentation" in text for text in advice.cautions)
        assert "trials in one process" in str(advice)

    def test_text_is_in_units_that_a_person_reads(self) -> None:
        assert "1.984 GB a trial" in str(mem.memory("adamw", 124_000_000))
        small = mem.memory("adamw", 10, batch_size=4, activations=mem.Footprint(0, 1e3))
        assert "160 bytes a trial and 4 kB activations at batch 4" in str(small)

    def test_json(self) -> None:
        advice = mem.memory("lion", 1000, activations=mem.Footprint(0, 1e6), capacity=1e9)
        document = json.loads(json.dumps(advice.to_dict()))
        assert document["per_parameter"]["total"] == 12

    def test_refusals(self) -> None:
        with pytest.raises(UnknownName):
            mem.memory("nothing", 1000)
        with pytest.raises(InvalidInput, match="precision"):
            mem.memory("adamw", 1000, precision="fp8")  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="parameters"):
            mem.memory("adamw", 0)
        with pytest.raises(InvalidInput, match="batch_size"):
            mem.memory("adamw", 1, batch_size=0)
        assert mem.memory("nothing", 1000, state=4.0).parameter_bytes == 12_000
