"""A task of your own, in twenty lines: two interleaved moons and a small network.

tuner task check moons:Moons
tuner run moons.yaml --task moons:Moons
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn

from tuner.tasks import Arrays, Config, Setting, Splits, Task


class Moons(Task):
    """Which of two moons a point belongs to."""

    name = "moons"
    summary = "Two interleaved moons, a small network."
    settings = {  # noqa: RUF012  (read only)
        "model.hidden": Setting(16, "Width of the hidden layer.", low=1, high=1024)
    }
    extra_metrics = ("accuracy",)

    def data(self) -> Splits:
        """The same points every time."""
        points, side = make_moons(1200, noise=0.2, random_state=0)
        x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(side)
        return Splits(train=Arrays(x[:800], y[:800]), valid=Arrays(x[800:], y[800:]))

    def model(self, config: Config) -> nn.Module:
        """Reads the width that the study suggests."""
        hidden = self.setting(config, "model.hidden")
        return nn.Sequential(nn.Linear(2, hidden), nn.GELU(), nn.Linear(hidden, 2))

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        """One number a sample."""
        return nn.functional.cross_entropy(output, target, reduction="none")

    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        """Reported as val_accuracy."""
        return {"accuracy": (output.argmax(-1) == target).float()}
