"""Handwritten digits with a small convolutional network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn
from typing_extensions import override

from tuner.tasks import register
from tuner.tasks.digits import Digits
from tuner.tasks.models import CNN_SETTINGS, ConvNet
from tuner.tasks.task import Config, Setting


@register("digits_cnn")
class DigitsCNN(Digits):
    """The data of ``digits``, seen as images.

    Args:
        checkpoint: Weights that every trial starts from, a safetensors file.
    """

    summary = "Handwritten digits (8 x 8), a small CNN. Needs no download."
    settings: ClassVar[Mapping[str, Setting]] = CNN_SETTINGS

    @override
    def model(self, config: Config) -> nn.Module:
        model = ConvNet(
            (1, 8, 8),
            10,
            width=int(self.setting(config, "model.width")),
            layers=int(self.setting(config, "model.layers")),
            hidden=int(self.setting(config, "model.hidden")),
            activation=self.setting(config, "model.activation"),
            dropout_rate=float(config.get("dropout", 0.0)),
        )
        return self.weights.into(model)
