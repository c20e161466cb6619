"""The form of a task: data, model, loss and metrics, in plain PyTorch.

A task knows nothing of trials, populations or servers. Its model is any ``nn.Module``; the
population engine stacks it over trials with ``torch.func`` where the model allows, and loops over
trials where not. Loss and metrics are *per sample*, so that any mix of batch sizes and a last
partial batch are exact.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from tuner.errors import InvalidInput
from tuner.tasks.weights import Weights

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Arrays:
    """Samples held in memory: ``x[i]`` is an input, ``y[i]`` its target.

    Args:
        x: Inputs ``[n, ...]``.
        y: Targets ``[n, ...]``.

    Raises:
        TypeError: One of them is no tensor.
        ValueError: There are not as many of the one as of the other.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        given: dict[str, object] = {"x": self.x, "y": self.y}
        for name, values in given.items():
            if not isinstance(values, Tensor):
                kind = type(values).__name__
                raise TypeError(f"{name} of Arrays is a {kind}: give torch.as_tensor({name})")
        if len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} inputs but {len(self.y)} targets")

    def __len__(self) -> int:
        return len(self.x)


Samples = Arrays | Dataset[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Splits:
    """The data of a task. ``valid`` decides; ``test`` is kept for who judges what was found."""

    train: Samples
    valid: Samples
    test: Samples | None = None

    @property
    def lacking(self) -> str:
        """Which samples there are none of, though there must be; empty where none is lacking."""
        for what, samples in (("training", self.train), ("validation", self.valid)):
            if not len(samples):  # type: ignore[arg-type]  # others than map-style raise TypeError
                return what
        return ""


def splits_of(task: Task) -> Splits:
    """What ``data()`` gives.

    Raises:
        TypeError: It is something else than ``Splits``, or samples can only be iterated.
    """
    splits = task.data()
    if not isinstance(splits, Splits):
        raise TypeError(
            f"data() of task {task.name} gives a {type(splits).__name__}: "
            "give Splits(train=Arrays(x, y), valid=Arrays(x, y))"
        )
    for name in ("train", "valid", "test"):
        samples = getattr(splits, name)
        if samples is not None and (
            isinstance(samples, IterableDataset) or not hasattr(samples, "__len__")
        ):
            raise TypeError(
                f"the {name} samples of task {task.name} can only be iterated: give Arrays, or a "
                "Dataset with __len__ and __getitem__, which may read each sample from a file"
            )
    return splits


@dataclass(frozen=True)
class Setting:
    """A ``model.*`` (or other) hyperparameter that a task understands beyond the common ones.

    Args:
        default: Its value when a study does not name it.
        doc: What it does, in a few words.
        search: A default range for ``space: auto``, in the study file's form, or None.
        low: The least legal value of a number.
        high: The greatest legal value of a number.
        choices: The legal values of anything else.
    """

    default: Any
    doc: str
    search: Mapping[str, Any] | None = None
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = field(default=())

    def check(self, name: str, value: object) -> None:
        """Raises InvalidInput, naming ``name``, unless ``value`` is legal."""
        if self.choices:
            if not any(type(value) is type(c) and value == c for c in self.choices):
                known = ", ".join(map(str, self.choices))
                raise InvalidInput(name, f"{value!r} is none of {known}")
            return
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise InvalidInput(name, f"{value!r} is no {'whole ' if whole else ''}number")
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not low <= value <= high:
            raise InvalidInput(name, f"{value!r} is outside [{low:g}, {high:g}]")


class Task(ABC):
    """What to train. Construct it with its parameters, such as ``Tabular(path=..., target=...)``.

    A subclass sets ``settings`` for the hyperparameters its model reads (``model.hidden``), and
    implements four methods. All of them must be deterministic: randomness comes from the seeds that
    the engine sets before :meth:`model` is called.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, Setting]] = {}
    objective: ClassVar[tuple[str, str]] = ("val_loss", "minimize")
    """The metric and direction a study takes when it names none."""
    ghost_batch_norm: ClassVar[bool] = False
    """Whether BatchNorm over the micro-batch instead of the batch is welcome."""

    weights: Weights = Weights(None)
    """What :meth:`model` starts from: a task that fine-tunes puts a file's here, and has it loaded
    by ``self.weights.into(model)``."""

    files: ClassVar[tuple[str, ...]] = ("path", "checkpoint")
    """Its parameters that name files: who submits over the network may not name just any."""

    @property
    def pretrained(self) -> bool:
        """Whether models start from weights that were trained before."""
        return self.weights.path is not None

    def setting(self, config: Config, name: str) -> Any:
        """The value of one of ``settings``: the config's, or the default."""
        return config.get(name, self.settings[name].default)

    @abstractmethod
    def data(self) -> Splits:
        """The samples; called once per worker. Must not depend on a trial's config."""

    @abstractmethod
    def model(self, config: Config) -> nn.Module:
        """A freshly initialised model. Reads ``model.*`` and ``dropout`` from ``config``."""

    @abstractmethod
    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        """Training loss of each sample, ``[m]``, from the model's output and targets ``[m, ...]``.

        Numbers in ``config`` (such as ``label_smoothing``) arrive as 0-d tensors in a population,
        so use them in arithmetic, never in a Python ``if``.
        """

    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        """Metrics of each sample, ``[m]`` each, averaged over the validation set.

        ``val_loss`` (the loss without label smoothing) and ``train_loss`` are there without asking.
        A metric ``accuracy`` is reported as ``val_accuracy``.
        """
        return {}

    def metric_names(self) -> list[str]:
        """All metrics a study may name as objective or constraint."""
        return ["val_loss", "train_loss", *(f"val_{name}" for name in self.extra_metrics)]

    extra_metrics: tuple[str, ...] = ()
    """The keys that :meth:`metrics` returns; where data decides, those of it once it is read."""
