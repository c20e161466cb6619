"""What trials of one population share: the model's structure, without its numbers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tuner import optimizers
from tuner.tasks import Config, Task

TRAINING_NUMBERS = frozenset({"epochs", "batch_size", "warmup_fraction", "dropout", "clip_norm"})
"""Numbers that never change a model's structure, nor enter its loss; nor do an optimizer's."""
TRAINING_NAMES = frozenset({"optimizer", "schedule", "warmup"})
"""Names that belong to the optimizer or the schedule, so trials may differ in them."""


@dataclass(frozen=True)
class Span:
    """Where one parameter lies in a flat row."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def dims(self) -> tuple[int, ...]:
        """The negative axes of the parameter, at least one."""
        return tuple(range(-max(1, len(self.shape)), 0))


@dataclass(frozen=True)
class Architecture:
    """A model's structure: a template, and the layout of its parameters in a flat row.

    Args:
        template: The model; only ever called through ``functional_call``, which brings all tensors.
        spans: Each parameter's place in the flat row, tied ones once.
        buffers: Shape and dtype of each buffer.
        key: Equal for configurations that may share a population.
        batch_norm: Names of modules that mix the samples of a micro-batch.
    """

    template: nn.Module
    spans: tuple[Span, ...]
    buffers: Mapping[str, tuple[torch.Size, torch.dtype]]
    key: str
    batch_norm: tuple[str, ...]

    @cached_property
    def size(self) -> int:
        """Parameters of one model."""
        return self.spans[-1].stop if self.spans else 0

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Parameters by name as views of ``[K, P]`` (or ``[P]``): ``[K, *shape]`` each."""
        lead = flat.shape[:-1]
        return {s.name: flat[..., s.start : s.stop].view((*lead, *s.shape)) for s in self.spans}


def build(task: Task, config: Config, seed: int, dtype: torch.dtype) -> nn.Module:
    """The model of a configuration, initialised from ``seed`` on the CPU, the same on any device.

    PyTorch's global generator is borrowed and put back, since that is what modules draw from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.model(config)
    for module in model.modules():
        # As a buffer the rate becomes a number of the trial, so a population may mix rates.
        if type(module) is nn.Dropout and "p" not in module._buffers:
            rate = float(module.p)
            del module.p
            module.register_buffer("p", torch.tensor(rate))
    return model.to(dtype).train()


def describe(model: nn.Module, task: Task, config: Config) -> Architecture:
    """The structure of a model that :func:`build` made."""
    spans: list[Span] = []
    start = 0
    for name, parameter in model.named_parameters():
        spans.append(Span(name, tuple(parameter.shape), start, start + parameter.numel()))
        start += parameter.numel()
    buffers = {name: (b.shape, b.dtype) for name, b in model.named_buffers()}
    key = structure_key(model, task, config)
    return Architecture(model, tuple(spans), buffers, key, mixing_modules(model))


def mixing_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of modules that mix the samples of a micro-batch."""
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    )


def structure_key(model: nn.Module, task: Task, config: Config) -> str:
    """A digest of all that trials must share to be stacked: structure, names, and which numbers."""
    text = re.sub(r"Dropout\(p=.*?\)", "Dropout", repr(model))
    names = sorted(map(repr, loss_names(config).items()))
    parts = (task.name, text, names, sorted(loss_numbers(config)))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@cache
def optimizer_names() -> frozenset[str]:
    """Every hyperparameter of every optimizer."""
    return frozenset(name for _, rule in optimizers.registry.items() for name in rule.hyper)


def loss_numbers(config: Config) -> dict[str, float]:
    """The numbers of a config that a loss may read, as floats; they become vectors over slots."""
    numbers: dict[str, float] = {"label_smoothing": 0.0}
    others = TRAINING_NUMBERS | optimizer_names()
    for name, value in config.items():
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and name not in others
            and not name.startswith(("model.", "schedule.", "lr_scale."))
        ):
            numbers[name] = float(value)
    return numbers


def loss_config(config: Config) -> dict[str, Any]:
    """What a loss gets of one trial's config: its numbers as 0-d tensors."""
    numbers = {name: torch.tensor(value) for name, value in loss_numbers(config).items()}
    return {**loss_names(config), **numbers}


def loss_names(config: Config) -> dict[str, Any]:
    """What a whole population has in common in its config: what a loss may branch on."""
    return {
        name: value
        for name, value in config.items()
        if name.startswith("model.")
        or (
            name not in TRAINING_NAMES
            and not name.startswith("schedule.")
            and (isinstance(value, bool) or not isinstance(value, int | float))
        )
    }
