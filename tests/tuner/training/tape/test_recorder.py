from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from tuner.training.tape import NotRecordable, recorded
from tuner.training.tape.recorder import record


def gradients(params: Tensor, x: Tensor) -> list[Tensor]:
    """Of many slots at once, as a population computes them."""
    with torch.enable_grad():
        leaf = params.detach().requires_grad_()
        total = vmap(lambda w: torch.tanh(x @ w).square().sum())(leaf).sum()
        (found,) = torch.autograd.grad(total, [leaf])
    return [found, total.detach()]


def test_a_record_repeats_what_was_recorded_on_other_numbers() -> None:
    params, x = torch.randn(3, 4, 2), torch.randn(5, 4)
    program = recorded(gradients, (params, x))
    for _ in range(2):
        params, x = torch.randn(3, 4, 2), torch.randn(5, 4)
        for found, expected in zip(program((params, x)), gradients(params, x), strict=True):
            torch.testing.assert_close(found, expected)


def test_the_recording_run_counts() -> None:
    params, x = torch.randn(3, 4, 2), torch.randn(5, 4)
    _, results = record(gradients, (params, x))
    for found, expected in zip(results, gradients(params, x), strict=True):
        assert torch.equal(found, expected)


def test_tensors_from_elsewhere_are_constants() -> None:
    weight = torch.randn(4, 4)
    program = recorded(lambda x: [x @ weight, weight], (torch.randn(2, 4),))
    x = torch.randn(2, 4)
    product, same = program((x,))
    torch.testing.assert_close(product, x @ weight)
    assert torch.equal(same, weight)


def test_writes_in_place_are_repeated() -> None:
    def function(x: Tensor) -> list[Tensor]:
        total = torch.zeros(3)
        row = total[1:]
        row.add_(x)
        total.mul_(2)
        return [total, row]

    program = recorded(function, (torch.randn(2),))
    for _ in range(2):  # a constant that one run wrote to would show in the next
        x = torch.randn(2)
        for found, expected in zip(program((x,)), function(x), strict=True):
            torch.testing.assert_close(found, expected)


def test_statistics_of_batch_norm_are_repeated() -> None:
    norm = nn.BatchNorm1d(3)

    def function(x: Tensor, mean: Tensor, var: Tensor, count: Tensor) -> list[Tensor]:
        own = {"running_mean": mean.clone(), "running_var": var.clone()}
        own["num_batches_tracked"] = count.clone()
        return [functional_call(norm, own, (x,)).detach(), *own.values()]

    start = (torch.zeros(3), torch.ones(3), torch.tensor(0))
    program = recorded(function, (torch.randn(8, 3), *start))
    x = torch.randn(8, 3)
    for found, expected in zip(program((x, *start)), function(x, *start), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x * 2 if x.sum() > 0 else x],
        lambda x: [x[x > 0]],
        lambda x: [x + torch.rand(3)],
        lambda x: [x * x.max().item()],
    ],
    ids=["branch", "mask", "random", "item"],
)
def test_what_a_record_cannot_repeat_is_refused(function: Callable[[Tensor], list[Tensor]]) -> None:
    with pytest.raises(NotRecordable, match="values"):
        recorded(function, (torch.randn(3),))


def test_recording_imports_no_compiler() -> None:
    """It would be a second of every short study."""
    text = (
        "import sys, torch; from tuner.training.tape import recorded;"
        "recorded(lambda x: [x.square().sum()], (torch.ones(3),))((torch.ones(3),));"
        "print([m for m in ('torch._dynamo', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
