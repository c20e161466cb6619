"""Handwritten digits with a multilayer perceptron: small enough to try everything on a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from tuner.tasks import register
from tuner.tasks.losses import accuracy, cross_entropy
from tuner.tasks.models import MLP, MLP_SETTINGS
from tuner.tasks.splits import cut
from tuner.tasks.task import Arrays, Config, Setting, Splits, Task
from tuner.tasks.weights import Weights


def shipped() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images ``[1797, 64]``, counts from 0 to 16, and their digits.

    Read from the file that scikit-learn ships, without scikit-learn, which takes longer to load
    than a small study to train.
    """
    package = find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    table = np.loadtxt(folder / "digits.csv.gz", delimiter=",", dtype=np.int64)
    return table[:, :-1], table[:, -1]


@register("digits")
class Digits(Task):
    """1,797 images of 8 x 8 pixels, 10 classes, as scikit-learn ships them.

    1,079 train, 359 validate and 359 test. Alpaydin and Kaynak, "Optical Recognition of Handwritten
    Digits", UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49.

    Args:
        checkpoint: Weights that every trial starts from, a safetensors file.
    """

    summary = "Handwritten digits (8 x 8), a multilayer perceptron. Needs no download."
    settings: ClassVar[Mapping[str, Setting]] = MLP_SETTINGS
    extra_metrics = ("accuracy",)

    def __init__(self, checkpoint: str | None = None) -> None:
        self.weights = Weights(checkpoint)

    @override
    def data(self) -> Splits:
        pixels, target = shipped()
        x = torch.from_numpy(pixels.astype(np.float32) / 16.0).view(-1, 1, 8, 8)
        y = torch.from_numpy(target)
        parts = cut(len(x), valid=0.2, test=0.2, strata=target)
        return Splits(*(Arrays(x[i], y[i]) for i in (parts.train, parts.valid, parts.test)))

    @override
    def model(self, config: Config) -> nn.Module:
        model = MLP(
            64,
            10,
            hidden=int(self.setting(config, "model.hidden")),
            layers=int(self.setting(config, "model.layers")),
            activation=self.setting(config, "model.activation"),
            dropout_rate=float(config.get("dropout", 0.0)),
        )
        return self.weights.into(model)

    @override
    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return cross_entropy(output, target, config.get("label_smoothing", 0.0))

    @override
    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        return {"accuracy": accuracy(output, target)}
