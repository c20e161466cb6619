"""Where the samples come from: arrays on the device, arrays on the host, or a data set's items.

The order of the data belongs to the study: epoch ``e`` is the permutation that ``(data_seed, e)``
gives, for every trial, whichever batch size it has and wherever it trains.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import default_collate

from tuner.errors import InvalidInput
from tuner.tasks import Arrays, Samples, Task, splits_of

DEVICE_SHARE = 0.4
"""The part of a GPU's free memory that a data set may take before it stays on the host."""


@lru_cache(maxsize=64)
def permutation(samples: int, data_seed: int, epoch: int) -> Tensor:
    """The order of one epoch: int64 ``[samples]``, the same on every machine."""
    # Knuth's multiplicative constant keeps neighbouring (seed, epoch) pairs apart.
    seed = (data_seed * 2654435761 + epoch * 40503 + 1) % (1 << 63)
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed))


class Source(Protocol):
    """Samples by index, as tensors on the training device."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets for int64 indices of any shape; their axes come first."""


class ArraySource:
    """Samples that lie in memory, on the device or on the host.

    Args:
        arrays: The samples; floating inputs take ``dtype``.
        device: Where training happens.
        dtype: That of floating inputs and targets.
        resident: Whether to keep them on the device.
    """

    def __init__(
        self, arrays: Arrays, device: torch.device, dtype: torch.dtype, *, resident: bool
    ) -> None:
        self.device = device
        x, y = _cast(arrays.x, dtype), _cast(arrays.y, dtype)
        self.resident = resident or device.type == "cpu"
        # Not pinned as a whole: the system could use that memory, rounded up to a power of two, for
        # nothing else, and only what was gathered is sent.
        place = device if self.resident else "cpu"
        self.x, self.y = x.to(place).contiguous(), y.to(place).contiguous()

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Gathers; from the host the copy runs beside the device's work."""
        flat = index.reshape(-1)
        if self.resident:
            flat = flat.to(self.device, non_blocking=True)
        x, y = self.x.index_select(0, flat), self.y.index_select(0, flat)
        if not self.resident:
            x = x.pin_memory().to(self.device, non_blocking=True)
            y = y.pin_memory().to(self.device, non_blocking=True)
        return (
            x.reshape(*index.shape, *x.shape[1:]),
            y.reshape(*index.shape, *y.shape[1:]),
        )


class ItemSource:
    """Samples that a ``torch.utils.data.Dataset`` gives one at a time."""

    def __init__(self, items: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.items = items
        self.device = device
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.items)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Fetches each distinct item once, collates as a ``DataLoader`` does, and copies over."""
        distinct, where = torch.unique(index.reshape(-1), return_inverse=True)
        fetch = getattr(self.items, "__getitems__", None)
        numbers = distinct.tolist()
        items = fetch(numbers) if fetch else [self.items[i] for i in numbers]
        x, y = _pair(_collated(items))
        x = _cast(x, self.dtype)[where].to(self.device, non_blocking=True)
        y = _cast(y, self.dtype)[where].to(self.device, non_blocking=True)
        return x.reshape(*index.shape, *x.shape[1:]), y.reshape(*index.shape, *y.shape[1:])


def open_source(samples: Samples, device: torch.device, dtype: torch.dtype) -> Source:
    """The fitting source: a data set's arrays live on the device when they fit there."""
    if not isinstance(samples, Arrays):
        return ItemSource(samples, device, dtype)
    resident = True
    if device.type == "cuda":
        size = samples.x.nbytes + samples.y.nbytes
        free, whole = torch.cuda.mem_get_info(device)
        # Of a GPU that several processes share, this one may take its part.
        # By index: this one refuses a device that names none, which means the present one.
        own = whole * torch.cuda.get_per_process_memory_fraction(device.index)
        resident = size < DEVICE_SHARE * min(free, own)
    return ArraySource(samples, device, dtype, resident=resident)


class TrainingData:
    """The samples of a task on one device, shared by all its populations there.

    Args:
        task: Whose ``data()`` is called, once.
        device: Where training happens.
        dtype: Of floating inputs and targets.

    Raises:
        InvalidInput: There is nothing to train on, or nothing to validate with.
    """

    def __init__(self, task: Task, device: torch.device, dtype: torch.dtype) -> None:
        splits = splits_of(task)
        if splits.lacking:
            raise InvalidInput(f"task {task.name}", f"data() gives no {splits.lacking} samples")
        self.train: Source = open_source(splits.train, device, dtype)
        self.valid: Source = open_source(splits.valid, device, dtype)


def _collated(items: list[Any]) -> object:
    """As a ``DataLoader`` puts items together.

    Raises:
        TypeError: They differ in shape.
    """
    try:
        return default_collate(items)
    except RuntimeError as error:
        for values in zip(*items, strict=False):
            shapes = sorted({tuple(v.shape) for v in values if isinstance(v, Tensor)})
            if len(shapes) > 1:
                raise TypeError(
                    f"samples differ in shape, such as {list(shapes[0])} and {list(shapes[-1])}: "
                    "pad them to one, with a value that model and loss know"
                ) from error
        raise


def _pair(collated: object) -> tuple[Tensor, Tensor]:
    """Inputs and targets of collated items.

    Raises:
        TypeError: The items are made of something else.
    """
    if not isinstance(collated, list | tuple) or len(collated) != 2:
        raise TypeError("a sample of a data set must be a pair, an input and its target")
    for what, values in zip(("input", "target"), collated, strict=True):
        if not isinstance(values, Tensor):
            kind = type(values).__name__
            raise TypeError(
                f"the {what} of a sample must be one tensor or number, not a {kind}: put several "
                "into one, and take them apart in model or loss"
            )
    return collated[0], collated[1]


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype) if values.is_floating_point() else values
