from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tuner.training.tape import recorded
from tuner.training.tape.emit import Program

WIDTH = 12 + 4
SPANS = [(slice(0, 12), (4, 3)), (slice(12, 16), (4,))]


def layer(flat: Tensor, x: Tensor) -> list[Tensor]:
    """Gradients of a linear layer's weight ``[4, 3]`` and bias, and the loss, of every slot."""
    with torch.enable_grad():
        weight = flat[:, :12].view(-1, 4, 3).detach().requires_grad_()
        bias = flat[:, 12:].detach().requires_grad_()
        losses = torch.relu(x @ weight.mT + bias[:, None]).square().sum((1, 2))
        gradients = torch.autograd.grad(losses.sum(), [weight, bias])
    return [*gradients, losses.detach()]


def program(slots: int = 3) -> Program:
    return recorded(layer, (torch.randn(slots, WIDTH), torch.randn(slots, 5, 3)), SPANS)


def test_results_are_written_where_they_are_wanted() -> None:
    run = program()
    flat, x, into = torch.randn(3, WIDTH), torch.randn(3, 5, 3), torch.full((3, WIDTH), 7.0)
    (loss,) = run((flat, x), into)
    weight, bias, expected = layer(flat, x)
    torch.testing.assert_close(into[:, :12].view(3, 4, 3), weight)
    torch.testing.assert_close(into[:, 12:], bias)
    torch.testing.assert_close(loss, expected)
    assert "copy_" not in run.source, "no copies: the operations themselves write there"


def test_parameters_may_move_and_change() -> None:
    """Views of them are kept by place, and see what is written there."""
    run, x = program(2), torch.randn(2, 5, 3)
    rows = torch.randn(6, WIDTH)
    for first in (0, 2, 4, 0):
        into = torch.empty(2, WIDTH)
        rows[first : first + 2].mul_(1.5)
        run((rows[first : first + 2], x), into)
        weight, bias, _ = layer(rows[first : first + 2], x)
        torch.testing.assert_close(into, torch.cat([weight.flatten(1), bias], 1))


def test_memory_is_taken_over_only_from_what_nobody_reads_again() -> None:
    def function(x: Tensor) -> list[Tensor]:
        a = x + 1
        b = a * 2
        view = a[0]
        c = b * 3
        return [c * 4, view - 1]

    run = recorded(function, (torch.randn(2, 3),))
    x = torch.randn(2, 3)
    before = x.clone()
    for found, expected in zip(run((x,)), function(x), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(x, before), "an argument is not ours to overwrite"
    assert "f1(v1, 2)\n" in run.source, "a is still looked at through its view"
    assert run.source.count("out=v") == 3, "b's, c's and at last a's memory"


def test_the_same_gradient_of_two_parameters_goes_to_both_places() -> None:
    def function(flat: Tensor) -> list[Tensor]:
        both = flat[:, :2] * flat[:, 2:]
        return [both, both]

    run = recorded(function, (torch.randn(3, 4),), [(slice(0, 2), (2,)), (slice(2, 4), (2,))])
    flat, into = torch.randn(3, 4), torch.empty(3, 4)
    run((flat,), into)
    torch.testing.assert_close(into, (flat[:, :2] * flat[:, 2:]).repeat(1, 2))


def test_values_that_are_no_literals_reach_the_program() -> None:
    def function(x: Tensor) -> list[Tensor]:
        return [
            x.masked_fill(x > 0, float("-inf")),
            x.to(torch.float64, memory_format=torch.preserve_format),
            torch.full_like(x, float("nan")),
        ]

    run, x = recorded(function, (torch.randn(4),)), torch.randn(4)
    for found, expected in zip(run((x,)), function(x), strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("slots", [1, 4])
def test_results_carry_no_history(slots: int) -> None:
    run = program(slots)
    (loss,) = run((torch.randn(slots, WIDTH), torch.randn(slots, 5, 3)), torch.empty(slots, WIDTH))
    assert not loss.requires_grad
