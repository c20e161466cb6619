"""A small problem that every optimizer and every reference can be run on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

Shapes = tuple[tuple[int, ...], ...]


class Problem:
    """Noise plus a pull towards zero, so that a difference between two runs grows."""

    steps = 24

    @staticmethod
    def weights(shapes: Shapes) -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(7)
        return [
            nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes
        ]

    def train(self, params: list[nn.Parameter], step: Callable[[], object]) -> Tensor:
        """All weights after the steps, flat; gradients change in size now and then."""
        generator = torch.Generator().manual_seed(11)
        for t in range(self.steps):
            for p in params:
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                p.grad = (noise + 0.5 * p.detach()) * (1 + t % 3)
            step()
        return torch.cat([p.detach().reshape(-1) for p in params])

    def gap(
        self,
        ours: list[nn.Parameter],
        our_step: Callable[[], object],
        theirs: list[nn.Parameter],
        their_step: Callable[[], object],
    ) -> float:
        """The largest difference of any weight after training both."""
        got, want = self.train(ours, our_step), self.train(theirs, their_step)
        return float((got - want).abs().max())


@pytest.fixture
def problem() -> Problem:
    return Problem()
