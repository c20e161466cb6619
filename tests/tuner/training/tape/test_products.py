from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tuner.training.tape import products, recorded
from tuner.training.tape.recorder import record


def product(a: Tensor, b: Tensor) -> list[Tensor]:
    return [torch.bmm(a, b)]


def operands(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(4, 96, 64, dtype=dtype), torch.randn(4, 64, 96, dtype=dtype)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known yet of any product."""
    monkeypatch.setattr(products, "_faster", {})


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("worth", [0.0, 1e9], ids=["never", "always"])
def test_either_library_gives_the_product_to_rounding(
    monkeypatch: pytest.MonkeyPatch, worth: float
) -> None:
    """A program with the switch thrown, or not, and the switch where it was afterwards."""
    monkeypatch.setattr(products, "WORTH", worth)
    before = products.position()
    run = recorded(product, operands())
    a, b = operands()
    (found,) = run((a, b))
    exact = torch.bmm(a.double(), b.double())
    assert (found.double() - exact).norm() <= 1e-6 * exact.norm()
    assert products.position() == before
    # Where oneDNN would round its factors, exactness forbids it whatever it is worth.
    thrown = "throw('bf16')" in run.source
    assert thrown == (worth > 0 and next(iter(products._faster.values())))


@pytest.mark.usefixtures("measured")
def test_a_library_that_rounds_more_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "WORTH", 1e9)
    monkeypatch.setattr(products, "EXACT", 0.0)
    assert "throw" not in recorded(product, operands()).source


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("case", ["double", "small", "reduced"])
def test_what_is_not_measured(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Double precision, products too small to matter, and a switch that the user has thrown."""
    arguments = operands(torch.float64 if case == "double" else torch.float32)
    if case == "small":
        arguments = (arguments[0][:, :2, :2], arguments[1][:, :2, :2])
    if case == "reduced":
        monkeypatch.setattr(products, "position", lambda: "tf32")
    tape, _ = record(product, arguments)
    assert not products.by_onednn(tape.calls[-1], tape)
    assert not products._faster


@pytest.mark.usefixtures("measured")
def test_a_failure_leaves_the_switch_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_compare", lambda *_: True)
    before = products.position()
    run = recorded(product, operands())
    with pytest.raises(RuntimeError):
        run((torch.randn(4, 96, 64), torch.randn(4, 5, 96)))
    assert products.position() == before


@pytest.mark.usefixtures("measured")
def test_broadcast_factors_are_measured_as_they_are() -> None:
    a, b = torch.randn(96, 64), torch.randn(4, 64, 96)

    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        return [torch.bmm(a.expand(4, 96, 64), b)]

    (found,) = recorded(function, (a, b))((a, b))
    torch.testing.assert_close(found, a @ b, rtol=1e-5, atol=1e-4)
