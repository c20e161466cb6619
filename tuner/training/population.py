"""Many trials of one architecture, trained as one tensor program.

Hyperparameters are vectors over slots; batch size is a counter. All slots read micro-batches of
``m`` samples, the largest common divisor of their batch sizes; slot k adds up gradients and steps
every ``batch_size_k / m`` micro-batches, and at the end of an epoch on what is left, as an ordinary
loop over a ``DataLoader`` does. A slot's numbers never depend on its neighbours, on its place, or
on how many there are, except for rounding; :class:`Population` says where that grows, and for which
models it does not hold.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tuner.errors import InvalidInput, NotVmappable
from tuner.tasks import Config, Task
from tuner.training.architecture import (
    Architecture,
    buffers_of,
    build,
    describe,
    difference,
    flat,
    loss_names,
    structure,
)
from tuner.training.check import self_check
from tuner.training.engine import Choice, Engine
from tuner.training.one_slot import OneSlot
from tuner.training.program import Form, Programs
from tuner.training.row_numbers import RowNumbers
from tuner.training.rows import Rows
from tuner.training.slot import Slot, within
from tuner.training.source import TrainingData
from tuner.training.steps import runs_of
from tuner.training.trainer import Trainer

log = logging.getLogger(__name__)

COMPILE_STEPS_AFTER = 60.0
"""Seconds of training before optimizer steps are compiled, which takes 5 to 8 s, cold."""
COMPILE_PROGRAM_AFTER = 300.0
"""Seconds before whole programs are, which takes 5 to 50 s."""
EVALUATION_SAMPLES = 2048
"""Validation samples that all slots together look at in one call, at least; memory decides."""


class Population:
    """K slots, one trial each, whose parameters are stacked along a leading axis.

    Slots are numbered ``0 .. slots - 1`` and keep their number while a trial is in them; which row
    of the stacked tensors a slot has changes as trials come and go, so that rows that step together
    lie together and no empty row is computed.

    A trial's numbers are to rounding those that it has alone, curvature estimates included.
    Rounding grows along a trajectory, most of all under SOAP: where a factor is short of rank or
    has equal eigenvalues, the basis within them is rounding's choice, and the step depends on it.
    How batches are cut into micro-batches, which goes by the neighbours' batch sizes, decides the
    statistics of BatchNorm where the task takes a micro-batch's (``ghost_batch_norm``). Elsewhere,
    if a model's gradients go by it (it draws from PyTorch's own generators, say), only trials of
    one batch size train together, and the batch is cut where memory or a pause demands it alone.

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
        template = build(task, config, 0, dtype)
        # Described before it moves: some modules print their device, and trials are built on a CPU.
        self.architecture: Architecture = describe(template, task)
        template.to(self.device)
        self.programs = Programs(OneSlot(task, self.architecture, loss_names(config), autocast))
        verdict = self_check(task, config, self.data.train, fuse=engine != "looped", check=check)
        self.engine = Engine(engine, self.device, verdict)
        self._whole = verdict.whole and not task.ghost_batch_norm
        """Whether only trials of one batch size may train together."""
        self.rows = Rows(self.architecture, slots, self.device, dtype)
        self.trainer = Trainer(self.rows, self.programs, self.engine, self.data.train)
        self.trainer.max_micro_batch = max_micro_batch
        self._order: list[int] = []
        """The slot that each row belongs to."""
        self._slots: dict[int, Slot] = {}
        self.compiling = compiling
        self.trained_seconds = 0.0
        self.evaluations: dict[int, dict[str, float]] = {}
        self.evaluation_samples = EVALUATION_SAMPLES
        """As the constant says; fewer where memory has not allowed so many."""
        self._averaged: Tensor | None = None
        self._idle_scales: set[str] = set()
        """Prefixes of ``lr_scale`` that were found to name nothing, and said to."""

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
            InvalidInput: A value is illegal, or makes another model than this population's; nothing
                has changed.
        """
        trial = Slot(config, seed, data_seed, len(self.data.train), epochs)
        model = self._fresh(trial)
        self.evict(slot)
        self.rows.start(len(self._order), flat(model), buffers_of(model), trial.rule)
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

        Raises:
            InvalidInput: A value is illegal, or makes another model; nothing has changed.
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
        self._place(target, new, tensors, old.progress(), same_rule=new.rule.key == old.rule.key)

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
        """Puts a trial back, into any slot of any population of its architecture.

        Raises:
            InvalidInput: It is of another architecture; nothing has changed.
        """
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
        self._place(slot, trial, state["tensors"], state["progress"], same_rule=True)

    def _place(
        self,
        slot: int,
        trial: Slot,
        tensors: Mapping[str, Tensor],
        progress: Mapping[str, Any],
        *,
        same_rule: bool,
    ) -> None:
        model = self._fresh(trial)
        self.rows.check(trial.rule if same_rule else None, tensors)
        trial.resume(progress)
        if not same_rule:
            trial.step = 0  # which bias corrections go by
        self.evict(slot)
        row = len(self._order)
        self.rows.write(row, trial.rule, tensors, buffers_of(model), state=same_rule)
        # Gradients are gathered as parts of the mean over the batch at hand.
        batch = trial.batch_at(trial.position)
        self.rows.pending[row].mul_(progress.get("batch", batch) / batch)
        self._order.append(slot)
        self._slots[slot] = trial

    def _fresh(self, trial: Slot) -> nn.Module:
        """A fresh model of a trial, which must be one of this population."""
        model = build(self.task, trial.config, trial.seed, self.dtype)
        other = difference(structure(model), self.architecture.structure)
        if other:
            raise InvalidInput(
                "config", f"makes a model of another structure than its population's: {other}"
            )
        # Frozen ones too, and second names of tied ones: what trains may itself be searched.
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        for prefix in trial.lr_scales.keys() - self._idle_scales:
            if not any(within(name, prefix) for name in names):
                log.warning("lr_scale.%s names no parameter of this model", prefix)
                self._idle_scales.add(prefix)
        return model

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
                for rows, longest in self._groups(lengths):
                    trials = [self._slots[k] for k in self._order[rows]]
                    sizes = [trial.batch_size for trial in trials]
                    length = self.trainer.aligned(sizes, trials[0].position, longest)
                    self.trainer.train(trials, rows, length)
                    for row in range(rows.start, rows.stop):
                        self._slots[self._order[row]].advance(length)
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
        if not self.trainer.compiled_steps and self.trained_seconds > COMPILE_STEPS_AFTER:
            log.info("optimizer steps are compiled from now on")
            self.trainer.compiled_steps = True
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
                trial.batch_size if self._whole else 0,
                str(trial.rule.key),
                trial.batch_size,
            )

        order = sorted(range(len(self._order)), key=lambda row: place(self._order[row]))
        self.rows.reorder(order)
        self._order = [self._order[row] for row in order]

    def _groups(self, lengths: Mapping[int, int]) -> list[tuple[slice, int]]:
        """Runs of rows that train together, with the samples they go on."""
        groups: list[tuple[slice, int]] = []
        key = None
        for row, slot in enumerate(self._order):
            length = lengths.get(slot, 0)
            if not length:
                break
            trial = self._slots[slot]
            here = (trial.position, length, trial.batch_size if self._whole else 0)
            if here == key:
                groups[-1] = (slice(groups[-1][0].start, row + 1), length)
            else:
                groups.append((slice(row, row + 1), length))
            key = here
        return groups

    # Results.

    def evaluate(self) -> dict[int, dict[str, float]]:
        """Means over the validation set by slot: ``val_loss``, and ``val_`` each metric.

        Also feeds schedules that follow a metric.
        """
        count = len(self._order)
        if not count:
            return {}
        start = time.perf_counter()
        table: dict[str, list[float]] = {}
        while not table:
            fused = self.engine.verdict.fused and self.engine.choice != "looped"
            form = Form(fused, *self.engine.evaluation)
            block = min(count, self.engine.max_block)
            chunk = max(64, self.evaluation_samples // (count if fused else 1))
            chunk = min(chunk, self.trainer.max_micro_batch or chunk, self.evaluation_samples)
            try:
                table = self._means(form, block, chunk)
            except NotVmappable as error:
                self.engine.refuse(form, error.message)
            except torch.OutOfMemoryError as error:
                if (fused and block > 1) or chunk == 1:
                    self.trainer.shrink(block if fused else 1, chunk, error)
                else:  # a batch may be fewer samples than these
                    self.evaluation_samples = chunk // 2
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

    def _means(self, form: Form, block: int, chunk: int) -> dict[str, list[float]]:
        """Means over the validation set by name, one for each row.

        Args:
            form: How to run.
            block: Rows at once.
            chunk: Samples at once.
        """
        count, total = len(self._order), len(self.data.valid)
        params = self._evaluated_params()
        trials = [self._slots[slot] for slot in self._order]
        numbers = RowNumbers(trials, self.device, self.dtype).numbers
        numbers.pop("label_smoothing")  # validation is without it
        sums: dict[str, Tensor] = {}
        for at in range(0, total, chunk):
            x, y = self.data.valid.take(torch.arange(at, min(at + chunk, total)))
            for first in range(0, count, block):
                rows = slice(first, min(first + block, count))
                buffers = {name: value[rows] for name, value in self.rows.buffers.items()}
                own = {name: value[rows] for name, value in numbers.items()}
                part = self.programs.evaluate(params[rows], buffers, x, y, own, form)
                for name, value in part.items():
                    if name not in sums:
                        sums[name] = torch.zeros(count, device=self.device, dtype=torch.float64)
                    sums[name][rows] += value
        return {name: (value / total).tolist() for name, value in sums.items()}

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
        # Memory of its own, which programs may remember by its place.
        if self._averaged is None:
            self._averaged = torch.empty_like(self.rows.params)
        params = self._averaged[:count].copy_(params)
        for row, slot in enumerate(self._order):
            trial = self._slots[slot]
            if trial.rule.eval_mode:
                (run,) = runs_of([trial], row, 0, self.rows, micro_batch=trial.batch_size)
                run.write_eval_params(params[row : row + 1])
        return params
