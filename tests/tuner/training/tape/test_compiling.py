from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from tuner.training.tape import compiled

SPANS = [(slice(0, 4), (4,))]


def function(flat: Tensor, x: Tensor) -> list[Tensor]:
    values, _ = torch.max(flat * x, -1, keepdim=True)
    return [flat * x, values + torch.ones(1)]


def test_a_compiled_program_gives_the_same() -> None:
    run = compiled(function, (torch.randn(3, 4), torch.randn(4)), SPANS)
    for _ in range(2):
        flat, x, into = torch.randn(3, 4), torch.randn(4), torch.empty(3, 4)
        (found,) = run((flat, x), into)
        placed, expected = function(flat, x)
        torch.testing.assert_close(into, placed)
        torch.testing.assert_close(found, expected)


def test_without_a_compiler_the_record_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> object:
        def run(*_: object) -> object:
            raise RuntimeError("no working compiler here")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    run = compiled(function, (torch.randn(3, 4), torch.randn(4)), SPANS)
    flat, x, into = torch.randn(3, 4), torch.randn(4), torch.empty(3, 4)
    with caplog.at_level(logging.WARNING):
        (found,) = run((flat, x), into)
    torch.testing.assert_close(into, flat * x)
    torch.testing.assert_close(found, function(flat, x)[1])
    assert "no working compiler" in caplog.text
