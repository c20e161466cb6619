"""Pictures to classify, from IDX files, an npz, or a folder for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from tuner.errors import InvalidInput
from tuner.tasks import pictures, register
from tuner.tasks.losses import accuracy, cross_entropy
from tuner.tasks.models import CNN_SETTINGS, ConvNet
from tuner.tasks.pictures import Labelled
from tuner.tasks.splits import cut
from tuner.tasks.task import Arrays, Config, Setting, Splits, Task
from tuner.tasks.weights import Weights

BLOCK = 4096


@dataclass(frozen=True)
class Prepared:
    """The pictures cut into parts, and what the training part says about them."""

    splits: Splits
    classes: tuple[Any, ...]
    shape: tuple[int, int, int]
    mean: float
    scale: float


@register("images")
class Images(Task):
    """A small CNN on pictures of one size.

    Pixels are kept as they are stored (bytes, mostly), and the model takes away the training part's
    mean and divides by its standard deviation. Where the path holds test pictures they are the test
    part; else there is none unless ``test`` asks for one.

    Args:
        path: A folder with IDX files (``train-images-idx3-ubyte.gz``, ...), an ``.npz`` with
            ``x_train`` and ``y_train`` (and ``x_test``, ``y_test``), or a folder of class folders.
        size: Height and width for pictures of a folder that differ in size.
        channels: 1 or 3, for pictures of a folder.
        valid: The fraction of the training pictures that validates.
        test: A fraction of them for the end, where the path holds no test pictures.
        limit: At most so many of the training pictures, for a quick look.
        checkpoint: Weights that every trial starts from, a safetensors file.
    """

    summary = "Pictures to classify (IDX, npz, or class folders), a small CNN."
    settings: ClassVar[Mapping[str, Setting]] = CNN_SETTINGS
    extra_metrics = ("accuracy",)

    def __init__(
        self,
        path: str,
        size: int | None = None,
        channels: int | None = None,
        valid: float = 1 / 6,
        test: float = 0.0,
        limit: int | None = None,
        checkpoint: str | None = None,
    ) -> None:
        for name, value, most in (("size", size, 4096), ("limit", limit, 1 << 40)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and 1 <= value <= most):
                raise InvalidInput(f"task.params.{name}", f"{value!r} is not within 1 to {most}")
        if channels not in (None, 1, 3):
            raise InvalidInput("task.params.channels", f"{channels!r} is neither 1 nor 3")
        self.path = Path(path)
        self.weights = Weights(checkpoint)
        self.size = size
        self.channels = channels
        self.valid = valid
        self.test = test
        self.limit = limit

    @cached_property
    def prepared(self) -> Prepared:
        """The pictures, read and cut once."""
        held = pictures.read(self.path, size=self.size, channels=self.channels)
        classes, codes = np.unique(held.train.labels, return_inverse=True)
        if len(classes) < 2:
            raise InvalidInput("task.params.path", "all pictures are of one class")
        if len(classes) > len(codes) // 2:
            few = f"{len(classes)} classes of {len(codes)} pictures"
            raise InvalidInput("task.params.path", f"{few}: too few of each")
        codes = codes.astype(np.int64)
        keep = np.arange(len(codes))
        if self.limit is not None and self.limit < len(codes):
            rest = cut(len(codes), valid=self.limit / len(codes), strata=codes)
            keep = rest.valid
        fraction = 0.0 if held.test is not None else self.test
        parts = cut(len(keep), valid=self.valid, test=fraction, strata=codes[keep])

        def take(rows: Any) -> Arrays:
            chosen = keep[rows]
            return Arrays(
                torch.from_numpy(held.train.pixels[chosen]), torch.from_numpy(codes[chosen])
            )

        train = take(parts.train)
        test = take(parts.test) if len(parts.test) else None
        if held.test is not None:
            test = _labelled(held.test, classes)
        mean, scale = moments(train.x)
        _, channels, height, width = train.x.shape
        return Prepared(
            Splits(train, take(parts.valid), test),
            tuple(classes.tolist()),
            (channels, height, width),
            mean,
            scale,
        )

    @override
    def data(self) -> Splits:
        return self.prepared.splits

    @override
    def model(self, config: Config) -> nn.Module:
        model = ConvNet(
            self.prepared.shape,
            len(self.prepared.classes),
            width=int(self.setting(config, "model.width")),
            layers=int(self.setting(config, "model.layers")),
            hidden=int(self.setting(config, "model.hidden")),
            activation=self.setting(config, "model.activation"),
            dropout_rate=float(config.get("dropout", 0.0)),
            mean=self.prepared.mean,
            scale=self.prepared.scale,
        )
        return self.weights.into(model)

    @override
    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return cross_entropy(output, target, config.get("label_smoothing", 0.0))

    @override
    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        return {"accuracy": accuracy(output, target)}


def moments(x: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all values, in blocks, since pixels may be bytes."""
    total = square = 0.0
    for block in torch.split(x, BLOCK):
        values = block.double()
        total += float(values.sum())
        square += float(values.square().sum())
    mean = total / x.numel()
    return mean, max(square / x.numel() - mean**2, 0.0) ** 0.5 or 1.0


def _labelled(held: Labelled, classes: np.ndarray[Any, Any]) -> Arrays:
    at = np.searchsorted(classes, held.labels).clip(max=len(classes) - 1)
    if (classes[at] != held.labels).any():
        strange = sorted(set(held.labels.tolist()) - set(classes.tolist()))[:5]
        raise InvalidInput("task.params.path", f"test pictures of unknown classes: {strange}")
    return Arrays(torch.from_numpy(held.pixels), torch.from_numpy(at.astype(np.int64)))
