"""How much memory a slot takes: measured, since no formula knows a model's activations.

On a GPU from the allocator's peaks over full steps at two batch sizes; on a CPU, which has no such
peaks, by counting what is allocated for a slot and what autograd keeps from one forward pass.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from tuner import optimizers
from tuner.advisor.memory import Footprint, measured, trials_per_device
from tuner.tasks import Config, Task
from tuner.training import Population, TrainingData
from tuner.training.architecture import build, describe, loss_config
from tuner.training.randomness import own_generators, slot_functions
from tuner.training.rows import Rows
from tuner.training.slot import DEFAULT_OPTIMIZER

SIZES = (8, 32)
"""Batch sizes at which peaks are taken."""
STEPS = 3
"""Optimizer state is made at the first step, and the allocator settles by the third."""
STATES = 2
"""Buffers of state to count on at least: trials with another optimizer may join a population."""

LARGEST = 2**31
"""A micro-batch beyond this is as good as any."""


@dataclass(frozen=True)
class SlotMemory:
    """What one slot takes, in bytes.

    Attributes:
        resident: Parameters, pending gradients, buffers and optimizer state: there all the time.
        peaks: The most while it trains, resident part included, by size of the micro-batch.
    """

    resident: float
    peaks: Footprint

    def at(self, micro_batch: int) -> float:
        """Bytes with micro-batches of so many samples."""
        return max(self.resident, self.peaks.at(micro_batch))

    def fit(self, budget: float, slots: int, batch_size: int) -> tuple[int, int]:
        """How many slots fit, and the largest micro-batch that leaves room for all of them.

        As many slots as fit with whole batches; a batch too large even for a single slot is cut
        into micro-batches.

        Args:
            budget: Bytes there are for all.
            slots: The most that are wanted.
            batch_size: Of the trial at hand.
        """
        moving = max(0.0, self.at(batch_size) - self.resident)
        count = trials_per_device(max(budget, 1.0), self.resident, moving, headroom=1.0)
        count = max(1, min(slots, count))
        if self.peaks.per_sample <= 0:
            return count, batch_size
        left = budget / count - self.peaks.fixed
        return count, int(min(max(left / self.peaks.per_sample, 1.0), LARGEST))


def measure(
    task: Task,
    config: Config,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    data: TrainingData | None = None,
) -> SlotMemory:
    """Measures a slot with this configuration.

    Args:
        task: What is trained.
        config: Its architecture and optimizer.
        device: Where.
        dtype: Of parameters and data.
        data: The task's samples on that device, where they are open already.
    """
    data = data or TrainingData(task, device, dtype)
    model = build(task, config, 0, dtype)
    architecture = describe(model, task)
    rows = Rows(architecture, 1, torch.device("cpu"), dtype)
    fixed = rows.gradient.nbytes + sum(tensor.nbytes for tensor in rows.everything())
    rows.places(optimizers.get(str(config.get("optimizer", DEFAULT_OPTIMIZER)), "optimizer"))
    state = sum(pool.nbytes for pool in rows.pools.values())
    resident = fixed + max(state, STATES * rows.params.nbytes)
    most = min(SIZES[1], len(data.train))
    sizes = sorted({min(SIZES[0], max(1, most // 2)), most})
    if len(sizes) < 2:
        return SlotMemory(resident, Footprint(resident, 0.0))
    if device.type == "cuda":
        peaks = measured(sizes, _allocated(task, config, sizes, device, dtype, data))
    else:
        kept = [_kept(model, task, config, data, size) for size in sizes]
        # A step may have the gradient by parameter too, beside what is resident.
        step = rows.params.nbytes
        peaks = measured(sizes, [resident + step + each for each in kept])
    return SlotMemory(resident, peaks)


def _allocated(
    task: Task,
    config: Config,
    sizes: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    data: TrainingData,
) -> list[float]:
    """What the allocator reserved at most for one slot, by batch size, rising.

    The first pass is thrown away: it pays for what is made once and stays, as cuBLAS's workspace.
    """
    found: list[float] = []
    for size in (sizes[0], *sizes):
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(device)
        torch.cuda.reset_peak_memory_stats(device)
        sized = {**config, "batch_size": size}
        alone = Population(
            task, sized, 1, device=device, dtype=dtype, engine="looped", data=data, check=False
        )
        # CUDA graphs have memory of their own, which these few steps would be over before.
        alone.programs.hot = 1
        trial = alone.load(0, sized, 0, epochs=float(config.get("epochs", 1.0)))
        for _ in range(STEPS):
            alone.train(min(trial.batch_size, trial.train_size - trial.position))
        found.append(float(torch.cuda.max_memory_reserved(device) - before))
        del alone
    gc.collect()
    torch.cuda.empty_cache()
    # Kernels are chosen by size: a larger batch may do with less workspace.
    return list(accumulate(found[1:], max))


def _kept(
    model: torch.nn.Module, task: Task, config: Config, data: TrainingData, size: int
) -> float:
    """Bytes that autograd keeps of one forward pass, with the samples themselves."""
    x, y = data.train.take(torch.arange(size))
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a result that its own node held would never be let go

    zero = torch.zeros((), dtype=torch.int32)
    held = {x.untyped_storage().data_ptr(): x.nbytes, y.untyped_storage().data_ptr(): y.nbytes}
    # The graph holds every saved tensor until the pass is over, so no address comes twice.
    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        own_generators(zero, zero),
        slot_functions(zero, zero),
    ):
        total = task.loss(model(x), y, loss_config(config)).sum()
    del total
    return float(sum({**kept, **held}.values()))
