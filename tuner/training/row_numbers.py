"""What a program needs of each row besides its tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tuner.optimizers.kernels import working_dtype
from tuner.training.slot import Slot


class RowNumbers:
    """Loss numbers, dropout seeds and batch scales of neighbouring rows, on the device."""

    def __init__(self, trials: Sequence[Slot], device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.numbers = {
            name: torch.tensor(
                [trial.numbers[name] for trial in trials],
                device=device,
                dtype=working_dtype(dtype),
            )
            for name in sorted(trials[0].numbers)
        }
        self.seeds = torch.tensor(
            [(trial.seed * 2654435761 + 97) % (1 << 31) for trial in trials],
            dtype=torch.int32,
            device=device,
        )
        self.offsets = torch.tensor(
            [trial.samples % (1 << 31) for trial in trials], dtype=torch.int32, device=device
        )
        self._trials = trials
        self._scales: dict[tuple[int, ...], Tensor] = {}
        self._head = max(
            t.batch_size * (t.position // t.batch_size + 1) if t.carried else 0 for t in trials
        )
        """Up to here some row is in a batch of another size, which a copy of it has taken over."""
        self._tail = min(t.train_size // t.batch_size * t.batch_size for t in trials)
        """From here on some row is in the last, partial batch of the epoch."""
        self._whole = self._scale([t.batch_size for t in trials])

    def scale(self, at: int) -> Tensor:
        """One over the size of the batch that each row is in, at this place of the epoch."""
        if self._head <= at < self._tail:
            return self._whole
        sizes = tuple(trial.batch_at(at) for trial in self._trials)
        if sizes not in self._scales:
            self._scales[sizes] = self._scale(sizes)
        return self._scales[sizes]

    def _scale(self, sizes: Sequence[int]) -> Tensor:
        return torch.tensor([1.0 / size for size in sizes], device=self.device, dtype=self.dtype)
