"""What a program takes and gives: one micro-batch for a block of rows, and their gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """One micro-batch for a block of R rows.

    Args:
        x: Inputs ``[m, ...]``, or ``[R, m, ...]`` when rows are at different places in the data.
        y: Targets, likewise.
        shared: Whether ``x`` and ``y`` lack the row axis.
        numbers: Loss hyperparameters by name, ``[R]`` each.
        scale: ``[R]``, one over the size of the batch that the row is gathering.
        seed: int32 ``[R]``, the trials' dropout seeds.
        offset: int32 ``[R]``, samples each trial saw before.
    """

    x: Tensor
    y: Tensor
    shared: bool
    numbers: Tensors
    scale: Tensor
    seed: Tensor
    offset: Tensor

    @property
    def count(self) -> int:
        """Samples in the micro-batch, m."""
        return self.x.shape[0 if self.shared else 1]

    def rows(self, at: slice | Tensor) -> Batch:
        """The same for some of the rows, by slice or by index."""
        return Batch(
            self.x if self.shared else self.x[at],
            self.y if self.shared else self.y[at],
            self.shared,
            {name: value[at] for name, value in self.numbers.items()},
            self.scale[at],
            self.seed[at],
            self.offset[at],
        )

    def padded(self, rows: int) -> Batch:
        """The same with the last row repeated until there are ``rows``."""
        # Made where it is used: to send it over, a GPU would be waited for at each micro-batch.
        last = torch.arange(rows, device=self.scale.device).clamp(max=len(self.scale) - 1)
        return self.rows(last)

    def samples(self, at: slice) -> Batch:
        """The same for some of the samples."""
        return replace(
            self,
            x=self.x[at] if self.shared else self.x[:, at],
            y=self.y[at] if self.shared else self.y[:, at],
            offset=self.offset + (at.start or 0),
        )


@dataclass(frozen=True)
class Gradients:
    """What one micro-batch gives for a block of R rows.

    Args:
        flat: ``[R, P]``, gradient of the scaled sum of losses: added up over a batch it is the
            gradient of the batch's mean loss. Memory of the caller's, written anew by each call.
        loss: ``[R]``, sum of the samples' losses.
        buffers: New values of the model's buffers, ``[R, ...]``, but for those that are constant.
    """

    flat: Tensor
    loss: Tensor
    buffers: Tensors
