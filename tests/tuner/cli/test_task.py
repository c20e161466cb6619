"""``tuner task check``: a good task passes, and each way to be wrong is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tuner.cli.task import examine
from tuner.tasks import Arrays, Config, Splits, Task


class Good(Task):
    """Eight features, two classes."""

    name = "good"
    extra_metrics = ("accuracy",)

    def data(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64, 8, generator=generator)
        arrays = Arrays(x, (x[:, 0] > 0).long())
        return Splits(train=arrays, valid=arrays)

    def model(self, config: Config) -> nn.Module:
        return nn.Linear(8, 2)

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return nn.functional.cross_entropy(output, target, reduction="none")

    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (output.argmax(-1) == target).float()}


class Changing(Good):
    """Other samples each time."""

    def data(self) -> Splits:
        x = torch.randn(64, 8)
        arrays = Arrays(x, (x[:, 0] > 0).long())
        return Splits(train=arrays, valid=arrays)


class Unnamed(Good):
    """Metrics that are not declared."""

    extra_metrics = ()


class Normed(Good):
    """A model with BatchNorm."""

    def model(self, config: Config) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


def test_a_good_task_passes() -> None:
    found = examine("good", Good(), "adamw")
    assert found.problems == []
    assert found.engine == "fused"
    assert (found.samples, found.parameters) == (64, 18)
    assert found.slot_bytes >= 18 * 16  # weight, gradient and two moments of four bytes
    assert all(speed > 0 for speed in found.samples_per_second.values())


@pytest.mark.parametrize(
    ("task", "word"), [(Changing(), "data() gives other"), (Unnamed(), "extra_metrics")]
)
def test_what_is_wrong_is_told(task: Task, word: str) -> None:
    (problem,) = examine("wrong", task, "sgd").problems
    assert word in problem


def test_batch_norm_is_a_caution() -> None:
    found = examine("normed", Normed(), "sgd")
    assert found.problems == []
    assert "BatchNorm" in found.cautions[0]
