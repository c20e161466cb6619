from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tuner.training.tape import recorded
from tuner.training.tape.decompositions import SHORT
from tuner.training.tape.recorder import record

aten = torch.ops.aten


def function(x: Tensor, weight: Tensor) -> list[Tensor]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        log_p = leaf.log_softmax(-1)
        (gradient,) = torch.autograd.grad((log_p * weight).sum(), [leaf])
    return [log_p.detach(), gradient]


@pytest.mark.parametrize("classes", [2, 10, SHORT, SHORT + 1])
def test_a_softmax_over_few_classes_is_taken_apart(classes: int) -> None:
    x, weight = 30 * torch.randn(4, 7, classes), torch.randn(4, 7, classes)
    tape, _ = record(function, (x, weight))
    taken_apart = aten._log_softmax.default not in [call.target for call in tape.calls]
    assert taken_apart == (classes <= SHORT)
    for found, expected in zip(
        recorded(function, (x, weight))((x, weight)), function(x, weight), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    x = torch.tensor([[1e4, -1e4, 0.0], [3e38, 0.0, 0.0]])
    found, gradient = recorded(function, (x, torch.ones_like(x)))((x, torch.ones_like(x)))
    expected, expected_gradient = function(x, torch.ones_like(x))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_other_axes_are_left_alone() -> None:
    tape, _ = record(lambda x: [x.log_softmax(0)], (torch.randn(3, 4),))
    assert aten._log_softmax.default in [call.target for call in tape.calls]
