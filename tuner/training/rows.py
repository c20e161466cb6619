"""The tensors of a population: everything a trial owns is one row of a few large buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.errors import InvalidInput, OutOfMemory
from tuner.optimizers import Rule
from tuner.optimizers.kernels import working_dtype
from tuner.training.architecture import Architecture

ALIGNED = {"cuda": 16}
"""Bytes at a multiple of which rows begin, by type of device: of others a GPU's kernels make copies
first. A CPU does not mind, and its kernels want rows without gaps."""
FLAT = ""
"""The unit of state that spans the whole flat row."""


@dataclass(frozen=True)
class StatePlace:
    """Where one state tensor of a rule lies: a pool is shared by all rules, since a row has one.

    Args:
        unit: The parameter it belongs to, or ``FLAT``.
        name: Its name in the rule.
        pool: Which buffer holds it.
    """

    unit: str
    name: str
    pool: tuple[object, ...]


class Rows:
    """Row ``r`` of every buffer is one trial's: parameters, gradient sum, buffers, optimizer state.

    Frozen parameters lie among the buffers: no gradient, no state, no step.

    Args:
        architecture: Gives the layout.
        capacity: Rows to hold.
        device: Where they live.
        dtype: Of parameters and gradients. State is float32 where that is of 16 bits, in which
            averages of a long memory would stand still.
    """

    def __init__(
        self, architecture: Architecture, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.architecture = architecture
        self.capacity = capacity
        self.device = device
        self.dtype = dtype
        try:
            flat = torch.Size([architecture.size])
            self.params = self._zeros(flat, dtype)
            self.gradient = self._zeros(flat, dtype)
            """Gradient of the last micro-batch; no part of a trial's state."""
            self.pending = self._zeros(flat, dtype)
            """Gradient of the unfinished batch, summed over its micro-batches."""
            self.buffers = {
                name: torch.zeros(capacity, *shape, device=device, dtype=kind)
                for name, (shape, kind) in architecture.buffers.items()
            }
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"{capacity} slots of {architecture.size} parameters") from error
        self.pools: dict[tuple[object, ...], Tensor] = {}
        self._places: dict[object, list[StatePlace]] = {}

    def _zeros(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """``[capacity, *shape]``; flat rows begin where the device likes numbers to begin."""
        if len(shape) != 1:
            return torch.zeros(self.capacity, *shape, device=self.device, dtype=dtype)
        each = max(1, ALIGNED.get(self.device.type, 1) // dtype.itemsize)
        width = -(-shape[0] // each) * each
        whole = torch.zeros(self.capacity, width, device=self.device, dtype=dtype)
        return whole[:, : shape[0]]

    def units(self, rule: Rule) -> Iterator[tuple[str, tuple[int, ...]]]:
        """What one call of the rule's ``update`` covers, by name, with its negative axes."""
        if rule.granularity == "tensor":
            for span in self.architecture.spans:
                yield span.name, span.dims
        else:
            yield FLAT, (-1,)

    def view(self, flat: Tensor, unit: str) -> Tensor:
        """The part of ``[R, P]`` that a unit covers, in its own shape (never 0-d)."""
        if unit == FLAT:
            return flat
        span = next(s for s in self.architecture.spans if s.name == unit)
        return flat[:, span.start : span.stop].view(len(flat), *(span.shape or (1,)))

    def places(self, rule: Rule) -> list[StatePlace]:
        """Where the state of a rule lies; makes the buffers it lacks."""
        if rule.key in self._places:
            return self._places[rule.key]
        places: list[StatePlace] = []
        taken: dict[tuple[object, ...], int] = {}
        # Not on the meta device, whose kernels import a second of symbolic mathematics.
        sample = torch.empty(1, self.architecture.size, dtype=working_dtype(self.dtype))
        for unit, dims in self.units(rule):
            for name, tensor in rule.init(self.view(sample, unit), dims).items():
                kind = (unit, *tensor.shape[1:], tensor.dtype)
                taken[kind] = taken.get(kind, 0) + 1
                pool = (*kind, taken[kind])
                if pool not in self.pools:
                    self.pools[pool] = self._zeros(tensor.shape[1:], tensor.dtype)
                places.append(StatePlace(unit, name, pool))
        self._places[rule.key] = places
        return places

    def state(self, rule: Rule, rows: slice) -> dict[str, dict[str, Tensor]]:
        """Views of the rule's state in some rows, by unit and name."""
        found: dict[str, dict[str, Tensor]] = {unit: {} for unit, _ in self.units(rule)}
        for place in self.places(rule):
            found[place.unit][place.name] = self.pools[place.pool][rows]
        return found

    def start(self, row: int, params: Tensor, buffers: Mapping[str, Tensor], rule: Rule) -> None:
        """Puts a fresh model into a row, with fresh optimizer state."""
        at = slice(row, row + 1)
        self.params[row].copy_(params)
        self.pending[row].zero_()
        for name, value in buffers.items():
            self.buffers[name][row].copy_(value)
        state = self.state(rule, at)
        wide = self.params[at].to(working_dtype(self.dtype))
        for unit, dims in self.units(rule):
            for name, value in rule.init(self.view(wide, unit), dims).items():
                state[unit][name].copy_(value)

    def everything(self) -> Iterator[Tensor]:
        """Every buffer with a row axis."""
        yield self.params
        yield self.pending
        yield from self.buffers.values()
        yield from self.pools.values()

    def reorder(self, order: list[int]) -> None:
        """Row ``i`` becomes what row ``order[i]`` was, for the first ``len(order)`` rows."""
        moved = [i for i, source in enumerate(order) if i != source]
        if not moved:
            return
        to = torch.tensor(moved, device=self.device)
        source = torch.tensor([order[i] for i in moved], device=self.device)
        for buffer in self.everything():
            buffer[to] = buffer[source]

    def copy(self, target: int, source: int) -> None:
        """Row ``target`` becomes a copy of row ``source``."""
        for buffer in self.everything():
            buffer[target].copy_(buffer[source])

    def read(self, row: int, rule: Rule, *, pending: bool) -> dict[str, Tensor]:
        """A row's tensors by readable names, copied to host memory."""
        tensors = {
            f"param.{name}": value
            for name, value in self.architecture.views(self.params[row]).items()
        }
        tensors |= {self._saved(name): value[row] for name, value in self.buffers.items()}
        for place in self.places(rule):
            tensors[f"state.{place.name}.{place.unit}"] = self.pools[place.pool][row]
        if pending:
            tensors["pending"] = self.pending[row]
        return {name: value.detach().cpu().clone() for name, value in tensors.items()}

    def check(self, rule: Rule | None, tensors: Mapping[str, Tensor]) -> None:
        """Refuses tensors that :meth:`write` could not put into a row.

        Raises:
            InvalidInput: Names the first that is missing or has another shape.
        """
        wanted = {f"param.{span.name}": span.shape for span in self.architecture.spans}
        wanted |= {self._saved(name): tuple(self.buffers[name].shape[1:]) for name in self._kept}
        for place in self.places(rule) if rule else ():
            wanted[f"state.{place.name}.{place.unit}"] = tuple(self.pools[place.pool].shape[1:])
        for name, shape in wanted.items():
            found = tuple(tensors[name].shape) if name in tensors else None
            if found != shape:
                has = "no such tensor" if found is None else f"shape {found}"
                raise InvalidInput(
                    "checkpoint",
                    f"is of another model: {name} is of shape {shape}, and it has {has}",
                )

    def write(
        self,
        row: int,
        rule: Rule,
        tensors: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        *,
        state: bool,
    ) -> None:
        """The inverse of :meth:`read`.

        Args:
            row: Where.
            rule: Its optimizer.
            tensors: What was read.
            buffers: Those of a fresh model of the configuration; dropout rates are as they say.
            state: Whether to take over the optimizer's state too.
        """
        spans = self.architecture.spans
        params = torch.cat([tensors[f"param.{span.name}"].reshape(-1) for span in spans])
        kept = {name: tensors[self._saved(name)] for name in self._kept}
        self.start(row, params, {**buffers, **kept}, rule)
        if "pending" in tensors:
            self.pending[row].copy_(tensors["pending"])
        for place in self.places(rule) if state else ():
            self.pools[place.pool][row].copy_(tensors[f"state.{place.name}.{place.unit}"])

    @property
    def _kept(self) -> list[str]:
        """The buffers that a trial takes with it to another configuration."""
        return [name for name in self.buffers if name not in self.architecture.rates]

    def _saved(self, name: str) -> str:
        """What a buffer is called in a checkpoint: a frozen parameter stays a parameter."""
        return f"{'param' if name in self.architecture.frozen else 'buffer'}.{name}"
