"""Trains neighbouring rows that are at the same place of their epochs, within the epoch.

Micro-batch by micro-batch: samples, gradients in the form that the engine chose, and a step of
those rows whose batch is complete.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tuner.errors import NotVmappable, OutOfMemory
from tuner.optimizers.kernels import working_dtype
from tuner.training.batch import Batch, Gradients
from tuner.training.engine import Engine, Mode
from tuner.training.program import Form, Programs
from tuner.training.row_numbers import RowNumbers
from tuner.training.rows import Rows
from tuner.training.slot import Slot
from tuner.training.source import Source, permutation
from tuner.training.steps import NOISE_EVERY, Run, runs_of

GATHERED_BYTES = 1 << 18
"""Samples are gathered for as many micro-batches at once as take about this much memory."""


class Trainer:
    """Trains rows of a population.

    Args:
        rows: The population's tensors.
        programs: What computes gradients.
        engine: Says in which form.
        source: The training samples.
    """

    def __init__(self, rows: Rows, programs: Programs, engine: Engine, source: Source) -> None:
        self.rows = rows
        self.programs = programs
        self.engine = engine
        self.source = source
        self.max_micro_batch: int | None = None
        """Largest micro-batch that memory allows, if there is such a bound."""
        self.compiled_steps = False
        """Whether optimizer steps run as compiled kernels."""
        self.noise_every = NOISE_EVERY
        """One batch in so many is measured for the noise scale."""

    def train(self, trials: Sequence[Slot], rows: slice, length: int) -> None:
        """Trains on the next samples.

        Args:
            trials: In row order, all at the same place of their epochs.
            rows: Their rows.
            length: Samples, which end within the epoch, and not beyond :meth:`aligned`.

        Raises:
            OutOfMemory: Not even one slot fits the device.
        """
        begin = trials[0].position
        end = begin + length
        m = self.micro_batch([trial.batch_size for trial in trials], begin)
        runs = runs_of(
            trials,
            rows.start,
            length,
            self.rows,
            micro_batch=m,
            halvable=m % 2 == 0 and self.engine.verdict.halvable,
            noise_every=self.noise_every,
        )
        per_row = RowNumbers(trials, self.rows.device, self.rows.dtype)
        losses = torch.zeros(len(trials), device=self.rows.device, dtype=torch.float64)
        at = begin
        for x, y, shared in self._samples(trials, begin, end, m):
            stop = min(at + m, end)
            batch = Batch(
                x,
                y,
                shared,
                per_row.numbers,
                per_row.scale(at),
                per_row.seeds,
                per_row.offsets + (at - begin),
            )
            losses += self._micro_batch(runs, rows, batch, at, stop, last=stop == end)
            fresh = not self.programs.task.pretrained
            if fresh and at == begin and any(trial.samples == 0 for trial in trials):
                for trial, loss in zip(trials, losses.tolist(), strict=True):
                    if trial.samples == 0:
                        trial.first_loss = loss / (stop - at)
            at = stop
        for trial, loss in zip(trials, losses.tolist(), strict=True):
            trial.loss_sum += loss
            trial.loss_count += length
        for run in runs:
            run.close()

    def aligned(self, batch_sizes: Sequence[int], position: int, length: int) -> int:
        """Samples, at most ``length``, that micro-batches of one size are cut from.

        Within a batch, those up to the next place where one may end: else all after them would go
        by the few samples that both sizes and position have for a divisor.
        """
        common = math.gcd(*batch_sizes)
        return min(length, common - position % common) if position % common else length

    def micro_batch(self, batch_sizes: Sequence[int], position: int = 0) -> int:
        """Samples in a micro-batch: the largest common divisor that memory allows.

        Within a batch, as many as are left to the next place where one may end.
        """
        common = math.gcd(*batch_sizes)
        limit = self.max_micro_batch or common
        if position % common:
            return min(common - position % common, limit)
        return max(d for d in range(1, min(common, limit) + 1) if common % d == 0)

    def _samples(
        self, trials: Sequence[Slot], begin: int, end: int, m: int
    ) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Inputs and targets of each micro-batch, and whether all rows share them."""
        size = trials[0].train_size
        orders = {(trial.data_seed, trial.epoch) for trial in trials}
        if len(orders) > 1:
            by_order = {o: permutation(size, *o)[begin:end] for o in orders}
            index = torch.stack([by_order[trial.data_seed, trial.epoch] for trial in trials])
            for at in range(0, end - begin, m):
                yield *self.source.take(index[:, at : at + m]), False
            return
        order = permutation(size, *orders.pop())[begin:end]
        at, gathered = 0, m
        while at < len(order):
            x, y = self.source.take(order[at : at + gathered])
            for within in range(0, len(x), m):
                yield x[within : within + m], y[within : within + m], True
            at += gathered
            gathered = m * max(1, GATHERED_BYTES * len(x) // (m * max(1, x.nbytes)))

    def _micro_batch(
        self, runs: Sequence[Run], rows: slice, batch: Batch, at: int, stop: int, *, last: bool
    ) -> Tensor:
        """Gradients and, where a batch is complete, steps; the sum of losses of each row."""
        measured = [run for run in runs if run.measures(at)]
        halves = any(run.batch_size == run.micro_batch for run in measured)
        gradients = self._gradients(rows, batch, halves=halves)
        for run in measured:
            run.measure(gradients)
        total = gradients[0] if len(gradients) == 1 else _whole(*gradients)
        for run in runs:
            run.take(total.flat, at, stop)
            if run.rule.needs and run.wants_curvature(stop):
                self._refresh(run, batch, at, stop)
            if run.steps_at(stop):
                run.step(compiled=self.compiled_steps, last=last)
        for name, value in total.buffers.items():
            self.rows.buffers[name][rows] = value
        return total.loss

    def _gradients(self, rows: slice, batch: Batch, *, halves: bool) -> list[Gradients]:
        """Gradients of the rows on one micro-batch, in one part or two, in blocks that pay."""
        count, samples = rows.stop - rows.start, batch.count
        while True:
            mode = self.engine.mode(count, samples)
            try:
                if halves:
                    middle = samples // 2
                    first = self._blocks(rows, batch.samples(slice(0, middle)), mode)
                    first = replace(first, flat=first.flat.clone())
                    return [first, self._blocks(rows, batch.samples(slice(middle, None)), mode)]
                whole = partial(self._blocks, rows, batch, mode)
                return [self.engine.timed(count, samples, mode, whole)]
            except NotVmappable as error:
                self.engine.refuse(mode.form, error.message)
            except torch.OutOfMemoryError as error:
                self.shrink(mode.block, samples, error)

    def shrink(self, block: int, samples: int, error: torch.OutOfMemoryError) -> None:
        """Makes do with smaller blocks than one that did not fit.

        Raises:
            OutOfMemory: There are none.
        """
        if block <= 1:
            raise OutOfMemory(
                f"one slot with a micro-batch of {samples} does not fit {self.rows.device}"
            ) from error
        self.engine.shrink(block)
        self.programs.forget()

    def _blocks(self, rows: slice, batch: Batch, mode: Mode) -> Gradients:
        """Gradients of the rows, a block after another."""
        count = rows.stop - rows.start
        block = mode.block if mode.fused else count
        at_once = mode.backend == "compiled" or self.engine.deciding(count, batch.count)
        losses, news = [], []
        for start in range(0, count, block):
            size = min(block, count - start)
            first = rows.start + start
            own = batch if size == count else batch.rows(slice(start, start + size))
            width = self._width(first, size) if mode.fused else size
            at = slice(first, first + width)
            found = self.programs.gradients(
                self.rows.params[at],
                {name: value[at] for name, value in self.rows.buffers.items()},
                own if width == size else own.padded(width),
                mode.form,
                self.rows.gradient[at],
                at_once=at_once,
            )
            losses.append(found.loss[:size])
            news.append({name: value[:size] for name, value in found.buffers.items()})
        flat = self.rows.gradient[rows]
        if len(losses) == 1:
            return Gradients(flat, losses[0], news[0])
        buffers = {name: torch.cat([new[name] for new in news]) for name in news[0]}
        return Gradients(flat, torch.cat(losses), buffers)

    def _width(self, first: int, size: int) -> int:
        """Rows to compute for ``size``: rounded up, so that few programs serve all sizes.

        The rows beyond are whatever lies there; what comes of them is thrown away.
        """
        step = max(1, (1 << (size - 1).bit_length()) // 4)
        width = -(-size // step) * step
        return width if first + width <= self.rows.capacity else size

    def _refresh(self, run: Run, batch: Batch, at: int, stop: int) -> None:
        """Gives a rule the curvature it asks for, from the whole batch that is complete now.

        From all of its micro-batches, the last of which is at hand: how it was cut depends on the
        neighbours' batch sizes.
        """
        count = run.rows.stop - run.rows.start
        start = (stop - 1) // run.batch_size * run.batch_size
        while True:
            fused = self.engine.verdict.fused and self.engine.choice != "looped"
            block = min(count, self.engine.max_block) if fused else 1
            try:
                found = [
                    self._curvature(
                        run,
                        slice(k, min(k + block, count)),
                        self._again(run, batch, start, at, stop),
                        fused=fused,
                    )
                    for k in range(0, count, block)
                ]
            except NotVmappable as error:
                self.engine.refuse(Form(fused, "eager"), error.message)
            except torch.OutOfMemoryError as error:
                self.shrink(block, batch.count, error)
            else:
                break
        estimate = torch.cat(found)
        run.refresh((stop - start) * estimate.square() if run.rule.needs == "gnb" else estimate)

    def _again(self, run: Run, batch: Batch, start: int, at: int, stop: int) -> Iterator[Batch]:
        """The micro-batches of a run's rows from ``start`` to ``stop``; ``batch`` begins ``at``."""
        own = batch.rows(run.local)
        # Of these samples alone, also where a copy has taken over some that another gathered.
        own = replace(own, scale=torch.full_like(own.scale, 1.0 / (stop - start)))
        if start == at:
            yield own
            return
        place = start
        for x, y, shared in self._samples(run.trials, start, stop, run.micro_batch):
            part = replace(own, x=x, y=y, shared=shared, offset=own.offset + (place - at))
            yield part
            place += part.count

    def _curvature(self, run: Run, at: slice, parts: Iterable[Batch], *, fused: bool) -> Tensor:
        """What some of a run's rows estimate curvature from, added up over a batch."""
        rows = slice(run.rows.start + at.start, run.rows.start + at.stop)
        buffers = {name: value[rows] for name, value in self.rows.buffers.items()}
        origin: Tensor | None = None
        # A square of 16 bits may be nothing.
        total = torch.zeros_like(self.rows.params[rows], dtype=working_dtype(self.rows.dtype))
        for part in parts:
            origin = part.offset[at] if origin is None else origin
            total += self.programs.curvature(
                self.rows.params[rows],
                buffers,
                part.rows(at),
                origin,
                kind=run.rule.needs,
                fused=fused,
            )
        return total


def _whole(first: Gradients, second: Gradients) -> Gradients:
    """Two halves of one micro-batch; the buffers are the second's."""
    return Gradients(second.flat.add_(first.flat), first.loss + second.loss, second.buffers)
