"""Optimizer steps of neighbouring rows that have one rule and one batch size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from tuner.optimizers import Rule
from tuner.optimizers.kernels import apply_, coefficient_table, working_dtype
from tuner.schedules.plan import stack
from tuner.schedules.schedule import momentum_name
from tuner.training.batch import Gradients
from tuner.training.rows import FLAT, Rows
from tuner.training.slot import Slot, within

NOISE_EVERY = 32
"""One batch in so many is measured for the noise scale; the first of an epoch always is."""


@dataclass(frozen=True)
class Part:
    """A piece of the parameters that one call of the rule's ``update`` covers.

    Args:
        unit: The parameter, or ``FLAT``.
        columns: Which columns of the flat row it is.
        dims: Its negative axes.
        params: ``[R, *shape]``.
        state: By name, ``[R, ...]``.
        table: Coefficients by name: one ``[R, 1, ...]`` for each step of the segment.
    """

    unit: str
    columns: slice
    dims: tuple[int, ...]
    params: Tensor
    state: Mapping[str, Tensor]
    table: Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True)
class Starts:
    """Where each row's coefficients begin.

    Args:
        step: Optimizer steps taken, by which the rule corrects its averages.
        scheduled: The place in the schedule.
    """

    step: Sequence[int]
    scheduled: Sequence[int]


@dataclass
class Run:
    """Rows that step together in one segment of an epoch.

    Args:
        trials: The slots, in row order.
        rows: Their rows.
        offset: The first row of the group that trains together.
        owner: The population's tensors.
        micro_batch: Samples in a micro-batch.
        length: Samples in the segment.
        halvable: Whether a micro-batch may be split to measure noise.
        noise_every: One batch in so many is measured for it.
    """

    trials: list[Slot]
    rows: slice
    offset: int
    owner: Rows
    micro_batch: int
    length: int
    halvable: bool
    noise_every: int = NOISE_EVERY
    parts: list[Part] = field(default_factory=list)
    _index: int = 0
    _gradient: Tensor | None = None
    _norms: Tensor | None = None
    _noise: list[tuple[int, float, Tensor, Tensor]] = field(default_factory=list)
    _parts_sq: Tensor | None = None
    _parts_seen: int = 0

    def __post_init__(self) -> None:
        first = self.trials[0]
        self.rule: Rule = first.rule
        self.batch_size = first.batch_size
        self.train_size = first.train_size
        self.begin = first.position
        self.end = self.begin + self.length
        self.local = slice(self.rows.start - self.offset, self.rows.stop - self.offset)
        self._clip: Tensor | None = None
        if any(math.isfinite(trial.clip_norm) for trial in self.trials):
            self._clip = torch.tensor(
                [trial.clip_norm for trial in self.trials],
                device=self.owner.device,
                dtype=working_dtype(self.owner.dtype),
            )

    def take(self, flat: Tensor, at: int, stop: int) -> None:
        """Adds the gradient of one micro-batch to what the batch has so far."""
        own = flat[self.local]
        begins = at % self.batch_size == 0
        if begins and self.steps_at(stop):
            self._gradient = own  # the whole batch: nothing to add up
            return
        self._gradient = None
        pending = self.owner.pending[self.rows]
        if begins:
            pending.copy_(own)
        else:
            pending.add_(own)

    def steps_at(self, stop: int) -> bool:
        """Whether a batch is complete at this place of the epoch."""
        return stop % self.batch_size == 0 or stop == self.train_size

    def step(self, *, compiled: bool, last: bool) -> None:
        """One optimizer step of all the rows."""
        g = self.owner.pending[self.rows] if self._gradient is None else self._gradient
        measured = self._parts_seen >= 2
        if measured or last or self._clip is not None:
            norms_sq = _norms_sq(g)
            if measured and self._parts_sq is not None:
                size = self.batch_size / self._parts_seen
                self._noise.append((self._parts_seen, size, self._parts_sq, norms_sq))
            if last:
                self._norms = norms_sq.sqrt()
            if self._clip is not None:
                # As torch.nn.utils.clip_grad_norm_, each slot by itself; a NaN norm stays NaN.
                shrink = (self._clip / (norms_sq.sqrt() + 1e-6)).clamp(max=1.0)
                g = g * shrink.to(g.dtype)[:, None]
        self._parts_sq, self._parts_seen = None, 0
        for part in self.parts:
            c = {name: values[self._index] for name, values in part.table.items()}
            here = g[:, part.columns]
            apply_(
                self.rule,
                part.params,
                here if part.unit == FLAT else here.view(part.params.shape),
                part.state,
                c,
                part.dims,
                compiled=compiled,
            )
        self._index += 1
        self._gradient = None

    # Noise scale.

    def measures(self, at: int) -> bool:
        """Whether the batch that this place of the epoch is in gets measured.

        Only where all of it is in this segment: what came of earlier parts is not known any more.
        """
        number = at // self.batch_size
        whole = self.begin <= number * self.batch_size <= self.end - self.batch_size
        divided = self.batch_size > self.micro_batch or self.halvable
        return whole and divided and number % self.noise_every == 0

    def measure(self, parts: list[Gradients]) -> None:
        """Takes in the squared gradient norms of one micro-batch, in one part or two halves."""
        flats = [part.flat[self.local] for part in parts]
        if len(flats) == 2 and self.batch_size > self.micro_batch:
            flats = [flats[0] + flats[1]]
        count = self.batch_size / (self.micro_batch / len(flats))
        for flat in flats:
            # The program scales by 1 / batch size; a part's own mean is ``count`` times that.
            norms = _norms_sq(flat) * count**2
            self._parts_sq = norms if self._parts_sq is None else self._parts_sq + norms
            self._parts_seen += 1

    # Curvature.

    def wants_curvature(self, stop: int) -> bool:
        """Whether the coming step is one at which the rule refreshes its curvature."""
        return self.steps_at(stop) and any(
            (trial.step + self._index) % self.rule.hessian_every == 0 for trial in self.trials
        )

    def refresh(self, estimate: Tensor) -> None:
        """Hands the rows whose turn it is a curvature estimate ``[R, P]``."""
        due = torch.tensor(
            [(t.step + self._index) % self.rule.hessian_every == 0 for t in self.trials],
            device=estimate.device,
        )
        for part in self.parts:
            c = {name: values[self._index] for name, values in part.table.items()}
            here = estimate[:, part.columns].view(part.params.shape)
            for name, new in self.rule.refresh(part.state, here, c).items():
                old = part.state[name]
                old.copy_(torch.where(due.view(-1, *(1,) * (old.ndim - 1)), new, old))

    # The end of a segment.

    def write_eval_params(self, target: Tensor) -> None:
        """Writes the weights to evaluate into ``[R, P]``."""
        for part in self.parts:
            c = {name: values[0] for name, values in part.table.items()}
            wide = part.params.to(working_dtype(part.params.dtype))
            new = self.rule.eval_params(wide, part.state, c)
            target[:, part.columns].copy_(new.reshape(len(target), -1))

    def close(self) -> None:
        """Moves what was counted on the device to the slots."""
        kept = [square for *_, parts_sq, mean_sq in self._noise for square in (parts_sq, mean_sq)]
        if self._norms is not None:
            kept.append(self._norms)
        numbers = iter(torch.stack(kept).tolist() if kept else ())  # a GPU is waited for once
        for parts, size, *_ in self._noise:
            pairs = zip(next(numbers), next(numbers), strict=True)
            for trial, (total, mean) in zip(self.trials, pairs, strict=True):
                trial.noise.add(parts, size, total, mean, trial.train_size)
        for trial in self.trials:
            trial.step += self._index
        for norms in numbers:
            for trial, norm in zip(self.trials, norms, strict=True):
                trial.grad_norm = norm


def runs_of(
    trials: Sequence[Slot],
    first_row: int,
    length: int,
    owner: Rows,
    *,
    micro_batch: int,
    halvable: bool = False,
    noise_every: int = NOISE_EVERY,
) -> list[Run]:
    """The runs of a group of rows, with their coefficients for the next ``length`` samples.

    With ``length`` 0 there is one set of coefficients: those of the last step taken.
    """
    runs: list[Run] = []
    row = first_row
    for _, members in groupby(trials, key=lambda t: (str(t.rule.key), t.batch_size)):
        some = list(members)
        rows = slice(row, row + len(some))
        run = Run(some, rows, first_row, owner, micro_batch, length, halvable, noise_every)
        count = some[0].steps_in(length) if length else 1
        back = 0 if length else 1
        starts = Starts(
            [max(0, t.step - back) for t in some], [max(0, t.scheduled - back) for t in some]
        )
        run.parts = list(_parts(run, starts, count))
        runs.append(run)
        row += len(some)
    return runs


def _parts(run: Run, starts: Starts, count: int) -> Iterator[Part]:
    if not count:
        return
    owner, rule = run.owner, run.rule
    state = owner.state(rule, run.rows)
    params = owner.params[run.rows]
    scales = {span.name: _scales(run.trials, span.names) for span in owner.architecture.spans}
    tables: dict[tuple[float, ...], dict[str, Tensor]] = {}

    def table(scale: tuple[float, ...], axes: int) -> dict[str, Sequence[Tensor]]:
        if scale not in tables:
            tables[scale] = _table(run, starts, count, scale)
        return {
            name: values.view(*values.shape, *(1,) * axes).unbind()
            for name, values in tables[scale].items()
        }

    if rule.granularity == "tensor":
        for span in owner.architecture.spans:
            view = owner.view(params, span.name)
            columns = slice(span.start, span.stop)
            c = table(scales[span.name], len(span.dims))
            yield Part(span.name, columns, span.dims, view, state[span.name], c)
        return
    spans = groupby(owner.architecture.spans, key=lambda span: scales[span.name])
    for scale, members in spans:
        some = list(members)
        columns = slice(some[0].start, some[-1].stop)
        own = {
            name: value[:, columns] if value.shape[-1] == params.shape[-1] else value
            for name, value in state[FLAT].items()
        }
        yield Part(FLAT, columns, (-1,), params[:, columns], own, table(scale, 1))


def _scales(trials: Sequence[Slot], names: Sequence[str]) -> tuple[float, ...]:
    """Each trial's multiplier of the learning rate for a parameter: its longest prefix's.

    Of a tied one that of its first name which has any.
    """
    return tuple(
        next(
            (
                trial.lr_scales[max(prefixes, key=len)]
                for name in names
                if (prefixes := [prefix for prefix in trial.lr_scales if within(name, prefix)])
            ),
            1.0,
        )
        for trial in trials
    )


def _table(run: Run, starts: Starts, count: int, scale: tuple[float, ...]) -> dict[str, Tensor]:
    """Coefficients by name, ``[steps, R]``: computed once a segment, in float64."""
    trials, rule, owner = run.trials, run.rule, run.owner
    h = {
        name: torch.tensor([trial.hyper[name] for trial in trials], dtype=torch.float64)
        for name in rule.hyper
    }
    factors = [float(trial.plateau.factor) for trial in trials]
    multiplier, momentum = stack([trial.plan for trial in trials], starts.scheduled, count, factors)
    h["lr"] = h["lr"] * multiplier * torch.tensor(scale, dtype=torch.float64)
    if momentum is not None:
        name = momentum_name(h)
        if name:
            h[name] = torch.where(momentum.isnan(), h[name], momentum)
    steps = torch.tensor(starts.step)[None, :] + torch.arange(count)[:, None]
    return coefficient_table(rule, h, steps, owner.dtype, owner.device)


def _norms_sq(flat: Tensor) -> Tensor:
    """Squared Euclidean norm of each row ``[R]``, in at least single precision."""
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=working_dtype(flat.dtype))
    return norms.square()
