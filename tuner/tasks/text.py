"""A byte-level language model on any text file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.tasks import register
from tuner.tasks.losses import accuracy, cross_entropy
from tuner.tasks.models import Transformer
from tuner.tasks.task import Arrays, Config, Setting, Splits, Task
from tuner.tasks.weights import Weights

LARGEST = 1 << 30
"""Bytes of a text file."""


@register("text")
class Text(Task):
    """Predicts the next byte; a sample is a window of bytes, and windows do not overlap.

    The parts are stretches of the file in order: training, then validation, then test. Bytes rather
    than characters or tokens, so that any text in any language will do without a vocabulary.

    Args:
        path: The text file.
        window: Bytes of a sample. ``model.sequence`` must divide it, or is cut to it.
        valid: The fraction that validates.
        test: The fraction kept for the end.
        checkpoint: Weights that every trial starts from, a safetensors file.
    """

    summary = "A byte-level transformer on a text file."
    settings: ClassVar[Mapping[str, Setting]] = {
        "model.width": Setting(
            64, "features", {"type": "categorical", "choices": [32, 64, 128]}, 1, 65536
        ),
        "model.layers": Setting(
            2, "transformer blocks", {"type": "int", "low": 1, "high": 4}, 1, 96
        ),
        "model.heads": Setting(4, "heads", {"type": "categorical", "choices": [2, 4, 8]}, 1, 256),
        "model.sequence": Setting(
            64, "bytes of context", {"type": "categorical", "choices": [32, 64, 128]}, 1, 65536
        ),
    }
    extra_metrics = ("accuracy", "bits_per_byte")

    def __init__(
        self,
        path: str,
        window: int = 128,
        valid: float = 0.1,
        test: float = 0.0,
        checkpoint: str | None = None,
    ) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= 65536:
            raise InvalidInput("task.params.window", f"{window!r} is no number of bytes to 65536")
        for name, fraction in (("valid", valid), ("test", test)):
            if isinstance(fraction, bool) or not 0.0 <= fraction < 1.0:
                raise InvalidInput(f"task.params.{name}", f"{fraction!r} is outside [0, 1)")
        self.path = Path(path)
        self.weights = Weights(checkpoint)
        self.window = window
        self.valid = valid
        self.test = test

    @override
    def data(self) -> Splits:
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        try:
            if self.path.stat().st_size > LARGEST:
                raise InvalidInput("task.params.path", f"larger than {LARGEST} bytes")
            content = bytearray(self.path.read_bytes())
        except OSError as error:
            raise InvalidInput("task.params.path", f"cannot be read: {error.strerror}") from error
        n = max(0, len(content) - 1) // self.window
        test, valid = round(n * self.test), round(n * self.valid)
        train = n - valid - test
        if train < 1 or valid < 1 or (self.test and test < 1):
            raise InvalidInput(
                "task.params.path", f"{len(content)} bytes are too few windows of {self.window}"
            )
        tokens = torch.frombuffer(content, dtype=torch.uint8)
        x = tokens[: n * self.window].reshape(n, self.window)
        y = tokens[1 : n * self.window + 1].reshape(n, self.window)
        middle = train + valid
        return Splits(
            Arrays(x[:train], y[:train]),
            Arrays(x[train:middle], y[train:middle]),
            Arrays(x[middle:], y[middle:]) if test else None,
        )

    @override
    def model(self, config: Config) -> nn.Module:
        sequence = min(int(self.setting(config, "model.sequence")), self.window)
        if self.window % sequence:
            raise InvalidInput(
                "model.sequence", f"{sequence} does not divide the window of {self.window} bytes"
            )
        model = Transformer(
            256,
            sequence=sequence,
            width=int(self.setting(config, "model.width")),
            layers=int(self.setting(config, "model.layers")),
            heads=int(self.setting(config, "model.heads")),
            dropout_rate=float(config.get("dropout", 0.0)),
        )
        return self.weights.into(model)

    @override
    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return cross_entropy(output, target, config.get("label_smoothing", 0.0))

    @override
    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        return {
            "accuracy": accuracy(output, target),
            "bits_per_byte": cross_entropy(output, target) / math.log(2.0),
        }
