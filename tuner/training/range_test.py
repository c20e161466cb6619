"""Two short runs that the advisor reads: the learning-rate range test, and the noise scale's.

Each costs one population, its seeds side by side in the slots.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tuner.advisor import noise_scale, range_test
from tuner.advisor.noise_scale import NoiseScale
from tuner.advisor.range_test import RangeTest
from tuner.errors import InvalidInput
from tuner.tasks import Config, Task
from tuner.training.noise import KEPT
from tuner.training.population import Population
from tuner.training.slot import DEFAULT_BATCH_SIZE, DEFAULT_OPTIMIZER
from tuner.training.source import TrainingData

PARTS = 8
"""Micro-batches that a batch is cut into to tell noise from signal."""


@dataclass(frozen=True)
class Sweep:
    """What a range test measured.

    Attributes:
        lr: ``[T]`` rates.
        losses: ``[seeds, T]``, NaN from where a seed diverged.
        seconds: Device time.
    """

    lr: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    seconds: float


def find_range(
    task: Task,
    config: Config,
    *,
    seeds: int = range_test.SEEDS,
    steps: int = range_test.STEPS,
    device: torch.device | str = "cpu",
) -> RangeTest:
    """Raises the lr exponentially over one short run and looks where the loss falls and diverges.

    Raises:
        InvalidInput: A value of the config or of the test is illegal.
    """
    rates = range_test.rates(steps=steps)
    swept = sweep(task, config, rates, seeds=seeds, device=device)
    optimizer = str(config.get("optimizer", DEFAULT_OPTIMIZER))
    return range_test.analyse(swept.lr, swept.losses, optimizer)


def sweep(
    task: Task,
    config: Config,
    rates: npt.NDArray[np.float64],
    *,
    seeds: int,
    device: torch.device | str = "cpu",
    data: TrainingData | None = None,
    max_micro_batch: int | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Sweep:
    """One optimizer step at each rate, all seeds side by side.

    Each seed has its own initialisation and order of data. The loss that goes with a rate is that
    of the batch after the step taken at it.

    Args:
        task: What is trained.
        config: Optimizer, batch size and the rest; its ``lr`` and schedule are not used.
        rates: Rising, one optimizer step each.
        seeds: Runs.
        device: Where.
        data: The task's samples, where they are open already.
        max_micro_batch: The largest that memory allows.
        interrupted: Asked after each step; true ends the sweep, unfinished.

    Raises:
        InvalidInput: A value of the config or of the test is illegal.
    """
    if seeds < 1:
        raise InvalidInput("seeds", f"{seeds} is less than 1")
    start, steps = time.perf_counter(), len(rates)
    constant = {
        name: value
        for name, value in config.items()
        if name not in ("lr", "schedule", "warmup", "warmup_fraction", "epochs")
        and not name.startswith("schedule.")
    }
    population = Population(
        task,
        constant,
        seeds,
        device=device,
        data=data,
        max_micro_batch=max_micro_batch,
        compiling=False,  # a run this short would not earn it back
    )
    for slot in range(seeds):
        population.load(slot, constant, seed=slot, epochs=1.0, data_seed=slot)
    losses = np.full((seeds, steps + 1), np.nan)
    for step in range(steps + 1):
        for slot in population.active:
            population.slot(slot).hyper["lr"] = float(rates[min(step, steps - 1)])
        first = population.slot(0)
        population.train(min(first.batch_size, first.train_size - first.position))
        losses[:, step] = [population.slot(slot).take_loss() for slot in range(seeds)]
        if not np.isfinite(losses[:, step]).any() or interrupted():
            break
    return Sweep(rates, losses[:, 1:], time.perf_counter() - start)


def measure_noise(
    task: Task,
    config: Config,
    *,
    steps: int = 256,
    device: torch.device | str = "cpu",
) -> NoiseScale:
    """Trains a configuration a short while, measuring every batch; its gradient noise scale.

    The noise scale grows as training goes on, quickly at first, so the first half of the steps does
    not count.

    Args:
        task: What is trained.
        config: The configuration; its batch size is at least 2.
        steps: Optimizer steps.
        device: Where.

    Raises:
        InvalidInput: A value of the config is illegal, the batch size is 1, or the model's
            gradient is no mean over independent samples.
    """
    if not 2 <= steps <= 2 * KEPT:
        raise InvalidInput("steps", f"{steps} is outside [2, {2 * KEPT}]")
    batch = int(config.get("batch_size", DEFAULT_BATCH_SIZE))
    if batch < 2:
        raise InvalidInput("batch_size", "a batch of one sample cannot tell noise from signal")
    population = Population(task, config, 1, device=device, max_micro_batch=max(1, batch // PARTS))
    mixing = population.architecture.batch_norm
    if mixing and not task.ghost_batch_norm:
        raise InvalidInput("task", f"{mixing[0]} (BatchNorm) makes samples depend on one another")
    population.trainer.noise_every = 1
    per_epoch = max(1, len(population.data.train) // batch)
    epochs = float(config.get("epochs", steps / per_epoch))
    trial = population.load(0, config, 0, epochs=epochs)
    # Whole epochs end in a partial batch, which is trained on but not measured.
    population.train(math.ceil(steps / per_epoch * trial.train_size))
    windows = list(trial.noise.windows)[-(steps // 2) :]
    traces, sq_norms = zip(*windows, strict=True) if windows else ((), ())
    return noise_scale.summarize(sq_norms, traces)
