"""Small tasks over the kinds of model that people train, for tests of tasks and of the engine.

What each has that others lack: ``MlpTask`` nothing; ``CnnTask`` convolutions and pooling;
``BatchNormTask`` buffers that training writes, and samples that meet each other; ``NormsTask``
norms that ask how images lie; ``LstmTask`` a recurrent kernel that ``vmap`` has no rule for;
``TransformerTask`` embeddings, integer inputs and torch's own attention and encoder layer;
``TiedTask`` one parameter under two names; ``DropoutTask`` randomness; ``MappingTask`` a mapping
for an output, as Hugging Face's models give.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tuner.tasks import Arrays, Config, Setting, Splits, Task
from tuner.tasks.losses import accuracy, cross_entropy, squared_error

TRAIN, VALID = 96, 32
CLASSES = 4
WORDS, LENGTH = 12, 6


@cache
def vectors(features: int = 8) -> Splits:
    """Points in space, labelled by the largest of ``CLASSES`` random linear functions."""
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(TRAIN + VALID, features, generator=generator)
    y = (x @ torch.randn(features, CLASSES, generator=generator)).argmax(1)
    return Splits(Arrays(x[:TRAIN], y[:TRAIN]), Arrays(x[TRAIN:], y[TRAIN:]))


@cache
def pictures() -> Splits:
    """Noise of 1 x 8 x 8 with a bright quarter, which is the class."""
    generator = torch.Generator().manual_seed(12)
    x = torch.randn(TRAIN + VALID, 1, 8, 8, generator=generator)
    y = torch.randint(CLASSES, (TRAIN + VALID,), generator=generator)
    for i, quarter in enumerate(y.tolist()):
        row, column = divmod(quarter, 2)
        x[i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
    return Splits(Arrays(x[:TRAIN], y[:TRAIN]), Arrays(x[TRAIN:], y[TRAIN:]))


@cache
def sentences() -> Splits:
    """Words whose successor is itself plus a constant, now and then disturbed."""
    generator = torch.Generator().manual_seed(13)
    start = torch.randint(WORDS, (TRAIN + VALID, 1), generator=generator)
    x = (start + 5 * torch.arange(LENGTH + 1)) % WORDS
    noise = torch.rand(x.shape, generator=generator) < 0.1
    x = torch.where(noise, torch.randint(WORDS, x.shape, generator=generator), x)
    return Splits(
        Arrays(x[:TRAIN, :-1], x[:TRAIN, 1:].contiguous()),
        Arrays(x[TRAIN:, :-1], x[TRAIN:, 1:].contiguous()),
    )


class _Classifier(Task):
    """Cross-entropy with label smoothing, and accuracy."""

    settings: ClassVar[Mapping[str, Setting]] = {
        "model.hidden": Setting(16, "units", low=1, high=256),
    }
    extra_metrics = ("accuracy",)

    def data(self) -> Splits:
        return vectors()

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return cross_entropy(output, target, config.get("label_smoothing", 0.0))

    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        return {"accuracy": accuracy(output, target)}


class MlpTask(_Classifier):
    name = "zoo_mlp"

    def model(self, config: Config) -> nn.Module:
        hidden = self.setting(config, "model.hidden")
        return nn.Sequential(nn.Linear(8, hidden), nn.Tanh(), nn.Linear(hidden, CLASSES))


class RegressionTask(MlpTask):
    """The same model with a real target: a smooth function of the input."""

    name = "zoo_regression"
    extra_metrics = ()

    def data(self) -> Splits:
        def target(samples: Any) -> Arrays:
            return Arrays(samples.x, torch.sin(samples.x[:, :CLASSES]) + samples.x[:, CLASSES:])

        return Splits(target(vectors().train), target(vectors().valid))

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return squared_error(output, target)

    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        return {}


class CnnTask(_Classifier):
    name = "zoo_cnn"

    def data(self) -> Splits:
        return pictures()

    def model(self, config: Config) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        )


class BatchNormTask(_Classifier):
    name = "zoo_batch_norm"
    ghost_batch_norm = True

    def data(self) -> Splits:
        return pictures()

    def model(self, config: Config) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, CLASSES),
        )


class NormsTask(CnnTask):
    name = "zoo_norms"

    def model(self, config: Config) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, bias=False),
            nn.InstanceNorm2d(8, affine=True),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )


class _Lstm(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        self.recurrent = nn.LSTM(8, hidden, batch_first=True)
        self.head = nn.Linear(hidden, WORDS)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.recurrent(self.embedding(x))
        logits: Tensor = self.head(hidden)
        return logits


class LstmTask(_Classifier):
    name = "zoo_lstm"

    def data(self) -> Splits:
        return sentences()

    def model(self, config: Config) -> nn.Module:
        return _Lstm(self.setting(config, "model.hidden"))


class _Transformer(nn.Module):
    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.position = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        self.layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, rate, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(width, WORDS)
        self.register_buffer(
            "mask", torch.full((LENGTH, LENGTH), float("-inf")).triu(1), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embedding(x) + self.position
        logits: Tensor = self.head(self.layer(hidden, src_mask=self.mask))
        return logits


class TransformerTask(_Classifier):
    name = "zoo_transformer"

    def data(self) -> Splits:
        return sentences()

    def model(self, config: Config) -> nn.Module:
        return _Transformer(self.setting(config, "model.hidden"), float(config.get("dropout", 0.0)))


class _Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, WORDS, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.mix(self.embedding(x))))
        return logits


class TiedTask(_Classifier):
    name = "zoo_tied"

    def data(self) -> Splits:
        return sentences()

    def model(self, config: Config) -> nn.Module:
        return _Tied(self.setting(config, "model.hidden"))


class DropoutTask(_Classifier):
    name = "zoo_dropout"

    def model(self, config: Config) -> nn.Module:
        hidden = self.setting(config, "model.hidden")
        return nn.Sequential(
            nn.Linear(8, hidden),
            nn.ReLU(),
            nn.Dropout(float(config.get("dropout", 0.5))),
            nn.Linear(hidden, CLASSES),
        )


class _Mapping(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.body = nn.Linear(8, hidden)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.body(x))
        return {"logits": self.head(hidden), "hidden": hidden}


class MappingTask(_Classifier):
    name = "zoo_mapping"

    def model(self, config: Config) -> nn.Module:
        return _Mapping(self.setting(config, "model.hidden"))

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return super().loss(output["logits"], target, config)

    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        return super().metrics(output["logits"], target)


TASKS: tuple[type[Task], ...] = (
    MlpTask,
    RegressionTask,
    CnnTask,
    BatchNormTask,
    NormsTask,
    LstmTask,
    TransformerTask,
    TiedTask,
    DropoutTask,
    MappingTask,
)
