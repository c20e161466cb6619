"""Per-sample losses beside torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap
from torch.nn import functional

from tuner.tasks.losses import accuracy, cross_entropy, squared_error


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    smoothing=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
    positions=st.sampled_from([0, 1, 5]),
)
def test_cross_entropy_is_torchs(seed: int, smoothing: float, positions: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (7, positions) if positions else (7,)
    logits = 5 * torch.randn(*shape, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(4, shape, generator=generator)
    theirs = functional.cross_entropy(
        logits.reshape(-1, 4), target.reshape(-1), reduction="none", label_smoothing=smoothing
    ).reshape(shape)
    if positions:
        theirs = theirs.mean(1)
    torch.testing.assert_close(cross_entropy(logits, target, smoothing), theirs)
    tensor = torch.tensor(smoothing, dtype=torch.float64)
    torch.testing.assert_close(cross_entropy(logits, target, tensor), theirs)


def test_smoothing_may_differ_between_slots() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    rates = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
    together = vmap(lambda rate: cross_entropy(logits, target, rate))(rates)
    for k, rate in enumerate(rates.tolist()):
        torch.testing.assert_close(together[k], cross_entropy(logits, target, rate))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_whole_target_will_do(dtype: torch.dtype) -> None:
    logits = torch.eye(3)
    target = torch.arange(3, dtype=dtype)
    assert cross_entropy(logits, target).shape == (3,)
    assert accuracy(logits, target).tolist() == [1.0, 1.0, 1.0]


def test_accuracy_and_squared_error_are_means_over_further_axes() -> None:
    logits = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    assert accuracy(logits, torch.tensor([[0, 1], [1, 0]])).tolist() == [0.5, 1.0]
    output = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    assert squared_error(output, torch.zeros(2, 2)).tolist() == [5.0, 0.0]
    assert squared_error(torch.tensor([2.0]), torch.zeros(1)).tolist() == [4.0]
