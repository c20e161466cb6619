"""Many trials of one architecture, trained as one tensor program.

Hyperparameters are vectors over slots; batch size is a counter. All slots read micro-batches of
``m`` samples, the largest common divisor of their batch sizes; slot k adds up gradients and steps
every ``batch_size_k / m`` micro-batches, and at the end of an epoch on what is left, as an ordinary
loop over a ``DataLoader`` does. A slot's numbers never depend on its neighbours, on its place, or
on how many there are, except for rounding.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tuner.errors import OutOfMemory
from tuner.tasks import Config, Task
from tuner.training.architecture import (
    Architecture,
    build,
    describe,
    loss_names,
)
from tuner.training.check import self_check
from tuner.training.engine import Choice, Engine, Mode
from tuner.training.program import Batch, Gradients, Programs, join, sum_of
from tuner.training.row_numbers import RowNumbers
from tuner.training.rows import Rows
from tuner.training.slot import Slot
from tuner.training.source import TrainingData, permutation
from tuner.training.steps import NOISE_EVERY, Run, runs_of

log = logging.getLogger(__name__)

COMPILE_STEPS_AFTER = 60.0
"""Seconds of training before optimizer steps are compiled, which takes 5 to 8 s, cold."""
COMPILE_PROGRAM_AFTER = 300.0
"""Seconds before whole programs are, which takes 5 to 50 s."""
SHARE_FROM_BYTES = 1 << 18
"""Slots at the same place in the data read one copy of a micro-batch from this size on."""
EVALUATION_SAMPLES = 2048
"""Validation samples that all slots together look at in one call, at least; memory decides."""


class Population:
    """K slots, one trial each, whose parameters are stacked along a leading axis.

    Slots are numbered ``0 .. slots - 1`` and keep their number while a trial is in them; which row
    of the stacked tensors a slot has changes as trials come and go, so that rows that step together
    lie together and no empty row is computed.

    Args:
        task: Model, loss and metrics.
        config: Any configuration of the architecture.
        slots: How many trials it can hold.
        device: Where it trains.
        dtype: Of parameters and data.
        engine: ``auto`` measures; ``fused`` and ``looped`` insist (``fused`` still falls back, and
            says so, where ``vmap`` refuses the model).
        data: The samples; opened from the task unless given.
        max_micro_batch: Largest micro-batch that memory allows, or None.
        autocast: Reduced precision of the forward pass, such as ``torch.bfloat16``, or None.
        check: Whether to run the float64 self-check before fusing.
        compiling: Whether long training may compile its kernels and programs.
    """

    def __init__(
        self,
        task: Task,
        config: Config,
        slots: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        engine: Choice = "auto",
        data: TrainingData | None = None,
        max_micro_batch: int | None = None,
        autocast: torch.dtype | None = None,
        check: bool = True,
        compiling: bool = True,
    ) -> None:
        self.task = task
        self.device = torch.device(device)
        self.dtype = dtype
        self.slots = slots
        self.data = data or TrainingData(task, self.device, dtype)
        self.max_micro_batch = max_micro_batch
        template = build(task, config, 0, dtype).to(self.device)
        self.architecture: Architecture = describe(template, task, config)
        self.programs = Programs(task, self.architecture, loss_names(config), autocast)
        verdict = self_check(task, config, self.data.train, fuse=engine != "looped", check=check)
        self.engine = Engine(engine, self.device, verdict)
        self.rows = Rows(self.architecture, slots, self.device, dtype)
        self._order: list[int] = []
        """The slot that each row belongs to."""
        self._slots: dict[int, Slot] = {}
        self.compiling = compiling
        self.compiled_steps = False
        """Whether optimizer steps run as compiled kernels."""
        self.trained_seconds = 0.0
        self.noise_every = NOISE_EVERY
        """One batch in so many is measured for the noise scale."""
        self.evaluations: dict[int, dict[str, float]] = {}

    # Trials in and out.

    @property
    def free(self) -> list[int]:
        """Slots without a trial."""
        return [k for k in range(self.slots) if k not in self._slots]

    @property
    def active(self) -> list[int]:
        """Slots with a trial."""
        return sorted(self._slots)

    def load(
        self, slot: int, config: Config, seed: int, *, epochs: float, data_seed: int = 0
    ) -> Slot:
        """Starts a trial in a slot, in place of what was there.

        Args:
            slot: Which one.
            config: The trial's hyperparameters.
            seed: Of initialisation and dropout.
            epochs: Length of a full training, where its schedule ends.
            data_seed: Of the order of the data.

        Raises:
            InvalidInput: A value is illegal; nothing has changed.
        """
        trial = Slot(config, seed, data_seed, len(self.data.train), epochs)
        model = build(self.task, config, seed, self.dtype)
        flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        buffers = dict(model.named_buffers())
        self.evict(slot)
        self.rows.start(len(self._order), flat, buffers, trial.rule)
        self._order.append(slot)
        self._slots[slot] = trial
        return trial

    def evict(self, slot: int) -> None:
        """Empties a slot; the last row takes its place, so no empty row is computed."""
        if slot not in self._slots:
            return
        row = self._order.index(slot)
        last = len(self._order) - 1
        if row != last:
            self.rows.copy(row, last)
            self._order[row] = self._order[last]
        self._order.pop()
        del self._slots[slot]
        self.evaluations.pop(slot, None)

    def copy(self, target: int, source: int, config: Config | None = None) -> None:
        """Slot ``target`` continues from all that ``source`` is, with another configuration.

        The exploit step of population-based training: weights, optimizer state and progress are
        copied. An optimizer of another kind starts with fresh state.
        """
        old = self._slots[source]
        new = Slot(
            old.config if config is None else config,
            old.seed,
            old.data_seed,
            old.train_size,
            old.epochs,
        )
        tensors = self.rows.read(self._order.index(source), old.rule, pending=old.mid_batch)
        self.evict(target)
        self._order.append(target)
        self._slots[target] = new
        self._place(target, tensors, old.progress(), same_rule=new.rule.key == old.rule.key)

    def slot(self, slot: int) -> Slot:
        """The trial in a slot; KeyError when it is empty."""
        return self._slots[slot]

    def state_dict(self, slot: int | None = None) -> dict[str, Any]:
        """All that a trial is, on the host: tensors by readable names, and the rest as JSON.

        Without ``slot``, the same for every active slot, by number.
        """
        if slot is None:
            return {"slots": {str(k): self.state_dict(k) for k in self.active}}
        trial = self._slots[slot]
        row = self._order.index(slot)
        return {
            "config": dict(trial.config),
            "seed": trial.seed,
            "data_seed": trial.data_seed,
            "epochs": trial.epochs,
            "progress": trial.progress(),
            "tensors": self.rows.read(row, trial.rule, pending=trial.mid_batch),
        }

    def load_state_dict(self, state: Mapping[str, Any], slot: int | None = None) -> None:
        """Puts a trial back, into any slot of any population of its architecture."""
        if slot is None:
            for name, part in state["slots"].items():
                self.load_state_dict(part, int(name))
            return
        trial = Slot(
            state["config"],
            state["seed"],
            state["data_seed"],
            len(self.data.train),
            state["epochs"],
        )
        self.evict(slot)
        self._order.append(slot)
        self._slots[slot] = trial
        self._place(slot, state["tensors"], state["progress"], same_rule=True)

    def _place(
        self,
        slot: int,
        tensors: Mapping[str, Tensor],
        progress: Mapping[str, Any],
        *,
        same_rule: bool,
    ) -> None:
        trial, row = self._slots[slot], self._order.index(slot)
        trial.resume(progress)
        if same_rule:
            self.rows.write(row, trial.rule, tensors)
            return
        names = self.architecture.spans
        flat = torch.cat([tensors[f"param.{span.name}"].reshape(-1) for span in names])
        buffers = {name: tensors[f"buffer.{name}"] for name in self.architecture.buffers}
        self.rows.start(row, flat, buffers, trial.rule)

    # Training.

    def train(self, samples: int | Mapping[int, int]) -> None:
        """Trains active slots on their next samples: as many each, or as many as given by slot.

        Raises:
            OutOfMemory: Not even one slot fits the device.
        """
        todo = dict.fromkeys(self._slots, samples) if isinstance(samples, int) else dict(samples)
        share = 1 / max(1, len(todo))
        start = time.perf_counter()
        with torch.no_grad():
            while any(todo.values()):
                # Rows at the same place in their epoch go together to the next epoch's end.
                lengths = {
                    k: min(left, self._slots[k].train_size - self._slots[k].position)
                    for k, left in todo.items()
                    if left
                }
                self._arrange(lengths)
                for rows, length in self._groups(lengths):
                    self._segment(rows, length)
                    for row in range(rows.start, rows.stop):
                        self._slots[self._order[row]].samples += length
                        todo[self._order[row]] -= length
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        share *= time.perf_counter() - start
        for slot in todo:
            self._slots[slot].seconds += share

        self.trained_seconds += time.perf_counter() - start
        self._invest()

    def _invest(self) -> None:
        """Compiles when it pays.

        Nobody knows how long a population will go on; that it has gone on for ten times what
        compiling costs is the best sign that it will do so again (the rule of the rented skis).
        """
        if not self.compiling:
            return
        if not self.compiled_steps and self.trained_seconds > COMPILE_STEPS_AFTER:
            log.info("optimizer steps are compiled from now on")
            self.compiled_steps = True
        if not self.engine.compiled and self.trained_seconds > COMPILE_PROGRAM_AFTER:
            log.info("compiled programs become candidates")
            self.engine.reconsider(compiled=True)

    def _arrange(self, lengths: Mapping[int, int]) -> None:
        """Sorts rows so that those that train, and those that step, together lie together."""

        def place(slot: int) -> tuple[Any, ...]:
            trial = self._slots[slot]
            return (
                lengths.get(slot, 0) == 0,
                trial.position,
                lengths.get(slot, 0),
                str(trial.rule.key),
                trial.batch_size,
            )

        order = sorted(range(len(self._order)), key=lambda row: place(self._order[row]))
        self.rows.reorder(order)
        self._order = [self._order[row] for row in order]

    def _groups(self, lengths: Mapping[int, int]) -> list[tuple[slice, int]]:
        """Runs of rows at the same place in the epoch, with the samples they go on."""
        groups: list[tuple[slice, int]] = []
        key = None
        for row, slot in enumerate(self._order):
            length = lengths.get(slot, 0)
            if not length:
                break
            here = (self._slots[slot].position, length)
            if here == key:
                groups[-1] = (slice(groups[-1][0].start, row + 1), length)
            else:
                groups.append((slice(row, row + 1), length))
            key = here
        return groups

    def micro_batch(self, batch_sizes: list[int], position: int = 0) -> int:
        """Samples in a micro-batch: the largest common divisor that memory allows."""
        common = math.gcd(*batch_sizes, position)
        limit = self.max_micro_batch or common
        return max(d for d in range(1, min(common, limit) + 1) if common % d == 0)

    def _segment(self, rows: slice, length: int) -> None:
        """Trains neighbouring rows, all at the same place of their epochs, within the epoch."""
        trials = [self._slots[slot] for slot in self._order[rows]]
        first = trials[0]
        begin, end = first.position, first.position + length
        m = self.micro_batch([t.batch_size for t in trials], begin)
        runs = runs_of(
            trials,
            rows.start,
            length,
            self.rows,
            micro_batch=m,
            halvable=m % 2 == 0 and not self.architecture.batch_norm,
            noise_every=self.noise_every,
        )
        orders = {(t.data_seed, t.epoch) for t in trials}
        index = torch.stack(
            [permutation(first.train_size, seed, epoch)[begin:end] for seed, epoch in orders]
        )
        # Sharing a micro-batch saves memory traffic; while that is small, a program less counts.
        shared = len(orders) == 1 and self.data.sample_bytes * m * len(trials) > SHARE_FROM_BYTES
        if not shared:
            where = {order: i for i, order in enumerate(orders)}
            index = index[[where[t.data_seed, t.epoch] for t in trials]]
        per_row = RowNumbers(trials, self.device, self.dtype)
        losses = torch.zeros(len(trials), device=self.device, dtype=torch.float64)
        for at in range(begin, end, m):
            stop = min(at + m, end)
            cut = slice(at - begin, stop - begin)
            x, y = self.data.train.take(index[0, cut] if shared else index[:, cut])
            batch = Batch(
                x,
                y,
                shared,
                per_row.numbers,
                per_row.scale(at),
                per_row.seeds,
                per_row.offsets + (at - begin),
            )
            measured = [run for run in runs if run.measures(at)]
            halves = any(run.batch_size == m for run in measured)
            gradients = self._gradients(rows, batch, halves=halves)
            for run in measured:
                run.measure(gradients)
            total = sum_of(gradients)
            losses += total.loss
            if at == begin and any(trial.samples == 0 for trial in trials):
                for trial, loss in zip(trials, total.loss.tolist(), strict=True):
                    if trial.samples == 0:
                        trial.first_loss = loss / (stop - at)
            for run in runs:
                run.take(total.flat, at, stop)
                if run.rule.needs and run.wants_curvature(stop):
                    self._refresh(run, batch)
                if run.steps_at(stop):
                    run.step(compiled=self.compiled_steps, last=stop == end)
            for name, value in total.buffers.items():
                self.rows.buffers[name][rows] = value
        for trial, loss in zip(trials, losses.tolist(), strict=True):
            trial.loss_sum += loss
            trial.loss_count += length
        for run in runs:
            run.close()

    def _gradients(self, rows: slice, batch: Batch, *, halves: bool) -> list[Gradients]:
        """Gradients of the rows on one micro-batch, in one part or two, in blocks that pay."""
        count = rows.stop - rows.start
        samples = batch.x.shape[0 if batch.shared else 1]
        cuts = [slice(0, samples // 2), slice(samples // 2, samples)]
        while True:
            mode = self.engine.mode(count, samples)
            try:
                if halves:
                    return [self._blocks(rows, batch.samples(cut), mode) for cut in cuts]
                whole = partial(self._blocks, rows, batch, mode)
                return [self.engine.timed(count, samples, mode, whole)]
            except torch.OutOfMemoryError as error:
                if mode.block <= 1:
                    raise OutOfMemory(
                        f"one slot with a micro-batch of {samples} does not fit {self.device}"
                    ) from error
            self.engine.shrink(mode.block)

    def _blocks(self, rows: slice, batch: Batch, mode: Mode) -> Gradients:
        """Gradients of the rows, a block after another."""
        count = rows.stop - rows.start
        block = mode.block if mode.fused else count
        parts: list[Gradients] = []
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
                fused=mode.fused,
                backend=mode.backend,
                at_once=mode.backend == "compiled",
            )
            parts.append(found if width == size else found.rows(slice(0, size)))
        return parts[0] if len(parts) == 1 else join(parts)

    def _width(self, first: int, size: int) -> int:
        """Rows to compute for ``size``: a power of two, so that few programs serve all sizes.

        The rows beyond are whatever lies there; what comes of them is thrown away.
        """
        width = 1 << (size - 1).bit_length()
        return width if first + width <= self.rows.capacity else size

    def _refresh(self, run: Run, batch: Batch) -> None:
        """Gives a rule the curvature it asks for, from the micro-batch at hand."""
        own = batch.rows(run.local)
        estimate = self.programs.curvature(
            self.rows.params[run.rows],
            {name: value[run.rows] for name, value in self.rows.buffers.items()},
            own,
            kind=run.rule.needs,
            fused=self.engine.verdict.fused and self.engine.choice != "looped",
        )
        run.refresh(estimate)

    # Results.

    def evaluate(self) -> dict[int, dict[str, float]]:
        """Means over the validation set by slot: ``val_loss``, and ``val_`` each metric.

        Also feeds schedules that follow a metric.
        """
        count = len(self._order)
        if not count:
            return {}
        start = time.perf_counter()
        params = self._evaluated_params()
        fused = self.engine.verdict.fused and self.engine.choice != "looped"
        total = len(self.data.valid)
        chunk = max(64, EVALUATION_SAMPLES // (count if fused else 1))
        chunk = min(chunk, self.max_micro_batch or chunk)
        sums: dict[str, Tensor] = {}
        for at in range(0, total, chunk):
            x, y = self.data.valid.take(torch.arange(at, min(at + chunk, total)))
            buffers = {name: value[:count] for name, value in self.rows.buffers.items()}
            part = self.programs.evaluate(params, buffers, x, y, fused=fused)
            for name, value in part.items():
                wide = value.to(torch.float64)
                sums[name] = sums[name] + wide if name in sums else wide
        table = {name: (value / total).tolist() for name, value in sums.items()}
        share = (time.perf_counter() - start) / count
        for row, slot in enumerate(self._order):
            trial = self._slots[slot]
            metrics = {f"val_{name}": values[row] for name, values in table.items()}
            self.evaluations[slot] = metrics
            trial.seconds += share
            if trial.plan.plateau is not None:
                monitor = str(trial.plan.plateau.chosen["monitor"])
                trial.plateau = trial.plan.observe(trial.plateau, metrics.get(monitor, math.nan))
        return {slot: dict(self.evaluations[slot]) for slot in self.active}

    def measurements(self) -> dict[int, dict[str, float | None]]:
        """What to report of each slot since the last call: losses, metrics, rate, noise scale."""
        found: dict[int, dict[str, float | None]] = {}
        for slot in self.active:
            trial = self._slots[slot]
            found[slot] = {
                "train_loss": trial.take_loss(),
                **self.evaluations.get(slot, {}),
                "lr": trial.learning_rate(),
                "grad_norm": None if math.isnan(trial.grad_norm) else trial.grad_norm,
                **trial.noise.metrics(),
                "epoch": trial.samples / trial.train_size,
            }
        return found

    def _evaluated_params(self) -> Tensor:
        """Rows to evaluate: rules that average weights evaluate other ones than they train."""
        count = len(self._order)
        params = self.rows.params[:count]
        if not any(trial.rule.eval_mode for trial in self._slots.values()):
            return params
        params = params.clone()
        for row, slot in enumerate(self._order):
            trial = self._slots[slot]
            if trial.rule.eval_mode:
                (run,) = runs_of([trial], row, 0, self.rows, micro_batch=trial.batch_size)
                run.write_eval_params(params[row : row + 1])
        return params
