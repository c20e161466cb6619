from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tuner.training.tape import calls, recorded
from tuner.training.tape.calls import Tape
from tuner.training.tape.passes import CONSTANT_BYTES, tidy
from tuner.training.tape.recorder import record

aten = torch.ops.aten


def tidied(function: Callable[..., list[Tensor]], arguments: Sequence[Tensor]) -> Tape:
    tape, _ = record(function, arguments)
    tidy(tape)
    return tape


def counts(tape: Tape) -> Counter[object]:
    return Counter(call.target for call in tape.calls)


def test_what_changes_nothing_is_taken_out() -> None:
    def function(x: Tensor) -> list[Tensor]:
        turned = x.transpose(0, 1).transpose(1, 0).view(2, 3).expand(2, 3).detach()
        return [torch.mul(turned, 1) + 1]

    assert list(counts(tidied(function, (torch.randn(2, 3),)))) == [aten.add.Tensor]


def test_what_is_made_on_the_host_for_a_device_is_sent_once() -> None:
    """Whatever its size: the copy would wait in each run, and end a capture."""

    def function(x: Tensor) -> list[Tensor]:
        mask = torch.full((600, 600), -1.0).triu(1)
        return [x + mask.to(x.device)]

    assert CONSTANT_BYTES < 4 * 600 * 600
    tape = tidied(function, (torch.empty(600, 600, device="meta"),))
    assert list(counts(tape)) == [aten.add.Tensor]
    assert [t.device.type for t in tape.constants.values()] == ["meta"]
    there = tidied(lambda x: [x + torch.full((600, 600), -1.0)], (torch.empty(600, 600),))
    assert aten.full.default in counts(there)


def test_a_deep_program_is_tidied_call_by_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at all calls for each that is taken out would take a deep model's minutes."""

    def looks(depth: int) -> int:
        def body(a: Tensor, b: Tensor) -> list[Tensor]:
            for _ in range(depth):
                a = torch.mul(a.view(2, 3), 1).transpose(0, 1).transpose(1, 0) @ b
            return [a.view(2, 3)]

        tape, _ = record(body, [torch.randn(2, 3), torch.randn(3, 3)])
        count = 0
        plain = calls.refs

        def counted(arguments: Any) -> Iterator[int]:
            nonlocal count
            count += 1
            return plain(arguments)

        with monkeypatch.context() as patched:
            patched.setattr(calls, "refs", counted)
            tidy(tape)
        assert len(tape.calls) == depth
        return count

    assert looks(80) < 5 * looks(20)


def test_a_product_with_one_is_kept_where_its_copy_is_written_to() -> None:
    def function(x: Tensor) -> list[Tensor]:
        copy = torch.mul(x, 1)
        return [copy.add_(1), x + 0]

    assert counts(tidied(function, (torch.randn(3),)))[aten.mul.Tensor] == 1


def test_what_no_input_has_a_part_in_is_computed_once() -> None:
    def function(x: Tensor) -> list[Tensor]:
        mask = torch.ones(3, 3, dtype=torch.bool).triu(1)
        return [x + torch.zeros(3, 3).masked_fill(mask, -1.0), torch.ones_like(x) * x]

    tape = tidied(function, (torch.randn(3, 3),))
    assert counts(tape) == {aten.add.Tensor: 1, aten.mul.Tensor: 1}
    assert len(tape.constants) == 2


def test_what_is_written_to_is_made_anew_each_time() -> None:
    def function(x: Tensor) -> list[Tensor]:
        return [torch.zeros(3).add_(x)]

    assert not tidied(function, (torch.randn(3),)).constants


def test_results_that_nobody_reads_are_not_computed() -> None:
    def function(x: Tensor) -> list[Tensor]:
        x.exp().log()
        return [x + 1]

    assert list(counts(tidied(function, (torch.randn(3),)))) == [aten.add.Tensor]


def test_a_product_that_is_read_turned_is_computed_turned() -> None:
    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        return [torch.bmm(x.mT, y).mT]

    x, y = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    tape = tidied(function, (x, y))
    assert counts(tape) == {aten.transpose.int: 1, aten.bmm.default: 1}
    assert tape.values[tape.outputs[0]].stride == (12, 3, 1), "row by row, as a weight is"


def test_a_product_that_others_read_stays_as_it_lies() -> None:
    """A kernel may count on it, as that of weight norm does, or a view that was one of it."""

    def flat(x: Tensor, y: Tensor) -> list[Tensor]:
        return [(torch.mm(x.t(), y).t() * 2).t().view(-1)]

    def normed(v: Tensor, x: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            leaf, g = v.detach().requires_grad_(), torch.ones(4, 1)
            out = nn.functional.linear(x, torch._weight_norm(leaf, g))
            return list(torch.autograd.grad(out.square().sum(), [leaf]))

    for function, shapes in ((flat, [(5, 3), (5, 4)]), (normed, [(4, 3), (5, 3)])):
        arguments = [torch.randn(shape) for shape in shapes]
        for found, expected in zip(
            recorded(function, arguments)(arguments), function(*arguments), strict=True
        ):
            torch.testing.assert_close(found, expected)


def test_a_view_of_a_product_with_one_is_one_of_what_it_was_taken_of() -> None:
    """So nobody writes over an argument: what batched layers add their bias by, for one sample."""

    def function(x: Tensor, bias: Tensor) -> list[Tensor]:
        return [torch.mul(bias, 1).view(1, 3) + x]

    bias, x = torch.randn(3), torch.randn(1, 3)
    before = bias.clone()
    (found,) = recorded(function, (x, bias))((x, bias))
    assert torch.equal(bias, before)
    torch.testing.assert_close(found, bias + x)
