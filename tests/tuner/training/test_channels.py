from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from tuner.training.channels import channels_last, image_functions

SLOTS = 3


class Net(nn.Module):
    def __init__(self, groups: int = 1, channels: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, groups=groups, bias=groups == 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.first(x)), 2)
        x = F.avg_pool2d(self.second(x), 2, padding=1)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def stacked(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    models = [dict(make().double().named_parameters()) for _ in range(SLOTS)]
    return {n: torch.stack([m[n].detach() for m in models]).requires_grad_() for n in models[0]}


def both(
    model: nn.Module, params: dict[str, Tensor], x: Tensor, x_dim: int | None, last: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients: of all slots at once with our functions, and of one after another."""

    def one(params: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(model, params, (x,))
        return out

    with image_functions(batched=True, last=last):
        fused = vmap(one, (0, x_dim))(params, x)
    rows = [
        one({n: p[k] for n, p in params.items()}, x if x_dim is None else x[k])
        for k in range(SLOTS)
    ]
    out = []
    for result in (fused, torch.stack(rows)):
        weights = torch.arange(result.numel(), dtype=result.dtype).reshape(result.shape)
        gradients = torch.autograd.grad((result * weights).sum(), list(params.values()))
        out.append([result.detach(), *gradients])
    return out[0], out[1]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("x_dim", [None, 0])
@pytest.mark.parametrize(("groups", "channels"), [(1, 2), (2, 2), (1, 1)])
def test_channels_side_by_side_are_slots_one_by_one(
    groups: int, channels: int, x_dim: int | None, last: bool
) -> None:
    params = stacked(lambda: Net(groups, channels))
    shape = (5, channels, 12, 12) if x_dim is None else (SLOTS, 5, channels, 12, 12)
    x = torch.randn(shape, dtype=torch.float64)
    found, expected = both(Net(groups, channels).double(), params, x, x_dim, last)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 3, 3), (4, 2, 9)),
        (nn.Conv3d(2, 3, 2), (4, 2, 4, 4, 4)),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.MaxPool1d(2)), (4, 2, 9)),
        (nn.Sequential(nn.Conv2d(2, 2, 2, groups=2), nn.AdaptiveMaxPool2d(2)), (4, 2, 7, 7)),
    ],
    ids=["1d", "3d", "pool1d", "shared image in groups"],
)
def test_other_convolutions(layer: nn.Module, shape: tuple[int, ...]) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).flatten(1)

    params = stacked(Flat)
    with torch.no_grad():
        for p in params.values():
            p.copy_(torch.randn_like(p))
    x = torch.randn(shape, dtype=torch.float64)
    found, expected = both(Flat().double(), params, x, None, last=False)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("x_dim", [None, 0])
def test_norms(x_dim: int | None, training: bool, last: bool) -> None:
    """Of images as they come, and of what a convolution leaves channels last."""

    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 6, 3),
                nn.GroupNorm(3, 6),
                nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
                nn.BatchNorm2d(6, affine=False),
                nn.Flatten(),
                nn.Linear(6 * 16, 5),
                nn.BatchNorm1d(5, track_running_stats=False),
            )
            self.train(training)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layers(x)
            return out

    model = Norms().double()
    params = stacked(Norms)
    buffers = {
        name: torch.stack([value + k for k in range(SLOTS)])
        for name, value in model.named_buffers()
    }
    x = torch.randn((5, 4, 6, 6) if x_dim is None else (SLOTS, 5, 4, 6, 6), dtype=torch.float64)

    def one(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
        own = {name: value.clone() for name, value in buffers.items()}
        return functional_call(model, {**params, **own}, (x,)), own

    with image_functions(batched=True, last=last):
        found, new = vmap(one, (0, 0, x_dim))(params, buffers, x)
    weights = torch.arange(found.numel(), dtype=found.dtype).reshape(found.shape)
    gradients = torch.autograd.grad((found * weights).sum(), list(params.values()))
    for k in range(SLOTS):
        own = {name: p[k].detach().requires_grad_() for name, p in params.items()}
        before = {name: value[k] for name, value in buffers.items()}
        expected, after = one(own, before, x if x_dim is None else x[k])
        torch.testing.assert_close(found[k], expected, rtol=1e-10, atol=1e-10)
        each = torch.autograd.grad((expected * weights[k]).sum(), list(own.values()))
        for a, b in zip(gradients, each, strict=True):
            torch.testing.assert_close(a[k], b, rtol=1e-9, atol=1e-9)
        for name, value in after.items():
            torch.testing.assert_close(new[name][k], value, rtol=1e-12, atol=1e-12)


def test_pooled_images_that_no_slot_has_a_part_in() -> None:
    """The data itself is pooled, and a kernel that is no parameter is convolved with."""
    kernel = torch.ones(1, 1, 2, 2, dtype=torch.float64)

    def one(scale: Tensor, x: Tensor) -> Tensor:
        return scale * F.conv2d(F.max_pool2d(x, 2), kernel) + F.conv2d(scale * x, kernel).sum()

    scales, x = (
        torch.randn(SLOTS, dtype=torch.float64),
        torch.randn(4, 1, 8, 8, dtype=torch.float64),
    )
    with image_functions(batched=True, last=False):
        found = vmap(one, (0, None))(scales, x)
    for k in range(SLOTS):
        torch.testing.assert_close(found[k], one(scales[k], x))


@pytest.mark.parametrize("channels", [1, 3])
def test_layout(channels: int) -> None:
    x = torch.randn(2, channels, 4, 5)
    last = channels_last(x)
    assert torch.equal(last, x)
    assert last.stride() == (20 * channels, 1, 5 * channels, channels)
    assert torch._prims_common.suggest_memory_format(last) == torch.channels_last
    assert channels_last(x[0]) is not None, "anything that is no batch of images passes"


def test_indices_and_single_images_go_to_pytorch() -> None:
    x: Any = torch.randn(2, 3, 4, 4)
    with image_functions(batched=True, last=False):
        values, indices = F.max_pool2d(x, 2, return_indices=True)
        single = F.max_pool2d(x[0], 2)
    assert indices.dtype == torch.int64
    assert torch.equal(values[0], single)


def test_functions_are_put_back() -> None:
    before = (F.conv2d, F.max_pool2d, F.batch_norm)
    with image_functions(batched=True, last=True):
        assert F.conv2d is not before[0]
    assert (F.conv2d, F.max_pool2d, F.batch_norm) == before
