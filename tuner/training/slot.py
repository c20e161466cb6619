"""One trial in training: its numbers, and how far it is. Its tensors are a row elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tuner import optimizers
from tuner.errors import InvalidInput
from tuner.optimizers import Rule
from tuner.schedules.plan import Plan
from tuner.schedules.plateau import PlateauState
from tuner.training.architecture import loss_numbers
from tuner.training.noise import NoiseWindows

DEFAULT_OPTIMIZER = "adamw"
DEFAULT_BATCH_SIZE = 32


def rounded_up(count: float) -> int:
    """The least whole number not below ``count``, but for rounding: ``3 * 0.1 * 10`` is 3."""
    return math.ceil(count * (1 - 1e-12))


def within(name: str, prefix: str) -> bool:
    """Whether a parameter is, or is below, the part of a model that ``lr_scale.PREFIX`` names."""
    return name == prefix or name.startswith(f"{prefix}.")


def takes_scales(rule: Rule) -> bool:
    """Whether parts of a model may have learning rates of their own under a rule.

    Not where one call must see the whole model, nor where state is one number a model.
    """
    if rule.granularity == "tensor":
        return True
    state = rule.init(torch.empty(1, 8), (-1,))
    return rule.granularity == "element" and all(s.shape == (1, 8) for s in state.values())


@dataclass
class Slot:
    """A trial being trained.

    Args:
        config: The trial's hyperparameters by name.
        seed: Of initialisation and dropout.
        data_seed: Of the order of the data.
        train_size: Samples in an epoch.
        epochs: Length of a full training; its schedule ends there.
    """

    config: Mapping[str, Any]
    seed: int
    data_seed: int
    train_size: int
    epochs: float
    samples: int = 0
    """Training samples seen."""
    step: int = 0
    """Optimizer steps taken since its optimizer's state was fresh."""
    loss_sum: float = 0.0
    loss_count: int = 0
    grad_norm: float = math.nan
    """Norm of the last batch's gradient, before clipping."""
    first_loss: float = math.nan
    """Mean loss of its first micro-batch, before any step: what divergence is measured by."""
    seconds: float = 0.0
    """Device seconds it has taken, shared among neighbours."""
    carried: int = 0
    """Samples by which the batch at hand differs from those of its size: where a copy of another
    batch size began within it, it is what the other had gathered, and what is left to its end."""
    plateau: PlateauState = field(default_factory=PlateauState.fresh)
    noise: NoiseWindows = field(default_factory=NoiseWindows)

    def __post_init__(self) -> None:
        self.rule: Rule = optimizers.get(
            self.config.get("optimizer", DEFAULT_OPTIMIZER), "optimizer"
        )
        self.batch_size = min(
            int(self.config.get("batch_size", DEFAULT_BATCH_SIZE)), self.train_size
        )
        if self.batch_size < 1:
            raise InvalidInput("batch_size", f"{self.batch_size} is less than 1")
        self.hyper = {
            name: float(self.config.get(name, hyper.default))
            for name, hyper in self.rule.hyper.items()
        }
        self.rule.check(self.hyper)
        self.clip_norm = float(self.config.get("clip_norm") or math.inf)
        if not self.clip_norm > 0:
            raise InvalidInput("clip_norm", f"{self.clip_norm} is not above 0")
        self.steps_per_epoch = math.ceil(self.train_size / self.batch_size)
        self.total_steps = max(1, rounded_up(self.epochs * self.steps_per_epoch))
        self.plan = Plan.of(
            {"lr": self.hyper["lr"], **self.config}, self.total_steps, epochs=self.epochs
        )
        self.numbers = loss_numbers(self.config)
        self.lr_scales = {
            name.removeprefix("lr_scale."): float(value)
            for name, value in self.config.items()
            if name.startswith("lr_scale.")
        }

        if self.lr_scales and not takes_scales(self.rule):
            raise InvalidInput(
                f"lr_scale.{next(iter(self.lr_scales))}",
                f"{self.rule.name} keeps numbers of the whole model, so it has one rate only",
            )

    @property
    def epoch(self) -> int:
        """Whole epochs behind it."""
        return self.samples // self.train_size

    @property
    def position(self) -> int:
        """Samples of the present epoch behind it."""
        return self.samples % self.train_size

    @property
    def mid_batch(self) -> bool:
        """Whether a batch is unfinished, so that its gradient sum is part of the state."""
        return self.position % self.batch_size != 0

    def batch_at(self, position: int) -> int:
        """Samples in the batch that a position of the present epoch is in."""
        number, begun = position // self.batch_size, self.position // self.batch_size
        whole = min(self.batch_size, self.train_size - number * self.batch_size)
        return whole + (self.carried if number == begun else 0)

    def advance(self, length: int) -> None:
        """Goes on by so many samples of the present epoch."""
        if self.steps_in(length):
            self.carried = 0
        self.samples += length

    @property
    def scheduled(self) -> int:
        """Where in its schedule it is: the steps that all its samples make at its batch size.

        Other than ``step`` where a copy of another trial has another batch size.
        """
        return self.epoch * self.steps_per_epoch + self.position // self.batch_size

    def steps_in(self, length: int) -> int:
        """Optimizer steps in the next ``length`` samples, which end within the present epoch."""
        before = self.position // self.batch_size
        end = self.position + length
        return (self.steps_per_epoch if end == self.train_size else end // self.batch_size) - before

    def learning_rate(self) -> float:
        """The rate of the last step taken (of the first, before any)."""
        at = max(0, min(self.scheduled, self.total_steps) - 1)
        table, _ = self.plan.table(at, 1, float(self.plateau.factor))
        return float(table[0]) * self.hyper["lr"]

    def take_loss(self) -> float:
        """Mean training loss since the last call; NaN if nothing was trained."""
        mean = self.loss_sum / self.loss_count if self.loss_count else math.nan
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def diverged(self, train_loss: float) -> bool:
        """Whether a round's mean loss is not finite, or more than four times the first.

        Weights that were trained before have a first loss that measures nothing; it is NaN then.
        """
        return not math.isfinite(train_loss) or train_loss > 4 * self.first_loss > 0

    def progress(self) -> dict[str, Any]:
        """The part of its state that is not tensors, as JSON."""
        return {
            "samples": self.samples,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "grad_norm": self.grad_norm,
            "first_loss": self.first_loss,
            "seconds": self.seconds,
            "batch": self.batch_at(self.position),
            "gathered": self.position % self.batch_size + self.carried if self.mid_batch else 0,
            "plateau": {name: value.item() for name, value in self.plateau.to_dict().items()},
            "noise": self.noise.to_dict(),
        }

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Takes over what :meth:`progress` gave, of a trial whose batch size may be another."""
        for name in ("samples", "step", "loss_count"):
            setattr(self, name, int(progress[name]))
        for name in ("loss_sum", "grad_norm", "first_loss", "seconds"):
            setattr(self, name, float(progress[name]))
        begun = self.position % self.batch_size
        # What the other gathered of a batch that ends where ours begins is in no batch of ours.
        self.carried = int(progress.get("gathered", begun)) - begun if begun else 0
        fresh = PlateauState.fresh().to_dict()
        self.plateau = PlateauState.from_dict(
            {
                name: torch.tensor(progress["plateau"][name], dtype=value.dtype)
                for name, value in fresh.items()
            }
        )
        self.noise = NoiseWindows.from_dict(progress["noise"])
