"""The trials a worker holds, grouped into populations, and trained a round at a time.

Knows no gateway: trials come in as leases, measurements and checkpoints go out.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from tuner import tasks
from tuner.errors import NotFound, OutOfMemory, TunerError
from tuner.protocol import Checkpoint, Leased, Measured, SlotReport
from tuner.tasks import Task
from tuner.training import Population, TrainingData, memory
from tuner.training.architecture import build, mixing_modules, structure_key
from tuner.training.checkpoint import CheckpointStore
from tuner.training.engine import Choice
from tuner.training.program import first_line
from tuner.training.slot import DEFAULT_BATCH_SIZE
from tuner.worker import device as devices

log = logging.getLogger(__name__)

PIECE_SECONDS = 1.0
"""Training goes on in pieces of about this long, between which a stop is heard."""
MEMORY_SHARE = 0.8
"""Of the free memory, what a population may plan on; the rest is for what nobody counts."""
SAVE_SECONDS = 60.0
"""How often a trial is saved though nobody decides about it."""

PopulationKey = tuple[Any, ...]


class NoRoom(Exception):
    """All slots of a population are taken."""


@dataclass
class Held:
    """A leased trial in a slot.

    Args:
        leased: What the service said of it.
        key: Its population's.
        slot: Where it is there.
        until: The step at which the service decides next.
        step: Evaluation periods completed.
    """

    leased: Leased
    key: PopulationKey
    slot: int
    until: int
    step: int
    saved_at: float = field(default_factory=time.monotonic)
    news: list[Measured] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    known: bool = True
    """Whether the service knows of the last checkpoint."""
    replaced: list[str] = field(default_factory=list)
    """Its earlier checkpoints, kept until then."""
    outcome: str = ""
    reason: str | None = None
    told: bool = False
    """Whether its outcome has been reported, so that it only waits to be dropped."""

    @property
    def due(self) -> bool:
        """Whether the service must hear of it before it can go on."""
        return bool(self.outcome) or self.step >= self.until


class Crew:
    """All trials of one worker on one device.

    Args:
        device: Where they train.
        slots: How many there may be at most.
        store: Where checkpoints go.
        engine: ``auto``, or an engine to insist on.
        dtype: Of parameters and data.
        memory: Bytes that one population may take; by default most of what is free when it is made.
        save_seconds: How often each trial is saved, between its steps if one takes longer.
    """

    def __init__(
        self,
        device: torch.device,
        slots: int,
        store: CheckpointStore,
        *,
        engine: Choice = "auto",
        dtype: torch.dtype = torch.float32,
        memory: int | None = None,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        self.device = device
        self.slots = slots
        self.store = store
        self.engine = engine
        self.dtype = dtype
        self.memory = memory
        self.save_seconds = save_seconds
        self.held: dict[int, Held] = {}
        self.populations: dict[PopulationKey, Population] = {}
        self._tasks: dict[str, tuple[Task, TrainingData]] = {}
        self._piece = 4096
        self.samples_per_second = 0.0

    # Trials in and out.

    def take(self, leased: Leased) -> SlotReport | None:
        """Puts a leased trial into a slot; where it cannot be, a report of failure or no room."""
        try:
            self._take(leased)
        except NoRoom:
            log.info("trial %s is handed back: all slots that fit memory are full", leased.trial_id)
            return SlotReport(trial_id=leased.trial_id, token=leased.token, outcome="returned")
        except OutOfMemory as error:
            return _failed(leased, "oom", error)
        except (TunerError, ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
            # A task's own code may raise anything of the kind; the trial, not the worker, fails.
            log.exception("trial %s cannot start", leased.trial_id)
            return _failed(leased, "error", error)
        return None

    def _take(self, leased: Leased) -> None:
        task, data = self._task(leased)
        population, key = self._population(leased, task, data)
        if not population.free:
            raise NoRoom
        slot = population.free[0]
        epochs = leased.max_step * leased.epochs_per_step
        step = leased.start
        state = None
        if leased.checkpoint is not None:
            try:
                state = self.store.load(leased.checkpoint.uri)
            except NotFound as error:
                log.warning("trial %s starts from scratch: %s", leased.trial_id, error)
                step = 0
        if state is None:
            population.load(
                slot, leased.config, leased.seed, epochs=epochs, data_seed=leased.data_seed
            )
            step = 0
        else:
            state["config"] = leased.config
            population.load_state_dict(state, slot)
        self.held[leased.trial_id] = Held(leased, key, slot, leased.until, step)

    def drop(self, trial_id: int, *, forget: bool = False) -> None:
        """Empties a trial's slot; ``forget`` also removes its checkpoint."""
        held = self.held.pop(trial_id, None)
        if held is None:
            return
        population = self.populations[held.key]
        population.evict(held.slot)
        if forget:
            for uri in (*held.replaced, *_own(held)):
                self.store.delete(uri)
        if not population.active and len(self.populations) > 1:
            del self.populations[held.key]

    def acknowledged(self, trial_id: int) -> None:
        """The service knows the trial's last checkpoint, so that the earlier ones may go."""
        held = self.held[trial_id]
        held.known = True
        for uri in held.replaced:
            self.store.delete(uri)
        held.replaced.clear()

    def _task(self, leased: Leased) -> tuple[Task, TrainingData]:
        name = f"{leased.task} {sorted(leased.task_params.items())!r}"
        if name not in self._tasks:
            task = tasks.get(leased.task)(**leased.task_params)
            self._tasks[name] = (task, TrainingData(task, self.device, self.dtype))
        return self._tasks[name]

    def _population(
        self, leased: Leased, task: Task, data: TrainingData
    ) -> tuple[Population, PopulationKey]:
        model = build(task, leased.config, leased.seed, self.dtype)
        key: PopulationKey = (leased.study_id, structure_key(model, task, leased.config))
        mixing = bool(mixing_modules(model))
        if mixing and not task.ghost_batch_norm:
            # Statistics over a micro-batch smaller than the batch would be another model.
            key = (*key, leased.config.get("batch_size"))
        if key not in self.populations:
            slots, micro_batch = self._fitting(task, leased, data)
            self.populations[key] = Population(
                task,
                leased.config,
                slots,
                device=self.device,
                dtype=self.dtype,
                engine=self.engine,
                data=data,
                # Statistics over micro-batches would be another model.
                max_micro_batch=None if mixing else micro_batch,
            )
        return self.populations[key], key

    def _fitting(self, task: Task, leased: Leased, data: TrainingData) -> tuple[int, int | None]:
        """Slots and the largest micro-batch that memory allows a new population."""
        config = leased.config
        budget = self.memory or MEMORY_SHARE * devices.free_memory(self.device)
        try:
            slot = memory.measure(task, config, device=self.device, dtype=self.dtype, data=data)
        except torch.OutOfMemoryError:
            log.warning("even a small batch of trial %s hardly fits", leased.trial_id)
            return 1, 1
        wanted = config.get("batch_size")
        batch = int(wanted) if isinstance(wanted, int | float) else DEFAULT_BATCH_SIZE
        batch = min(batch, len(data.train))
        slots, micro_batch = slot.fit(budget, self.slots, batch)
        if slots < self.slots or micro_batch < batch:
            log.info(
                "%.3g MB a slot at batch size %d, %.3g MB to use: %d slots, micro-batches up to %d",
                slot.at(batch) / 1e6,
                batch,
                budget / 1e6,
                slots,
                micro_batch,
            )
        return slots, micro_batch

    @property
    def room(self) -> int:
        """Trials that fit at once, as far as is known."""
        return min((p.slots for p in self.populations.values() if p.active), default=self.slots)

    # Training.

    def round(self, interrupted: Callable[[], bool]) -> None:
        """Trains every trial that is not waiting for a verdict to its next evaluation.

        Args:
            interrupted: Asked between pieces; true ends the round early, in the middle of a step.
        """
        start, before = time.perf_counter(), self._samples()
        for key in list(self.populations):
            mine = [h for h in self.held.values() if h.key == key and not h.due]
            if not mine:
                continue
            try:
                finished = self._train(self.populations[key], mine, interrupted)
                if finished:
                    self._evaluate(self.populations[key], mine)
            except OutOfMemory as error:
                self._fail(mine, "oom", error)
            except (TunerError, ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
                log.exception("a round failed")
                self._fail(mine, "error", error)
        spent = time.perf_counter() - start
        if spent > 0:
            self.samples_per_second = (self._samples() - before) / spent

    def _train(
        self, population: Population, mine: list[Held], interrupted: Callable[[], bool]
    ) -> bool:
        left = {h.slot: self._target(h) - population.slot(h.slot).samples for h in mine}
        unit = math.lcm(*(population.slot(slot).batch_size for slot in left))
        while any(n > 0 for n in left.values()):
            if interrupted():
                return False
            whole = max(1, self._piece // unit) * unit
            piece = {}
            for slot, n in left.items():
                trial = population.slot(slot)
                # A piece that ended within a batch would leave only a small common micro-batch.
                rest = min(whole - trial.position % unit, trial.train_size - trial.position)
                if n > 0:
                    piece[slot] = min(n, rest)
            start = time.perf_counter()
            population.train(piece)
            spent = time.perf_counter() - start
            for slot, n in piece.items():
                left[slot] -= n
            if max(piece.values()) == whole:
                if spent < PIECE_SECONDS / 2:
                    self._piece *= 2
                elif spent > 2 * PIECE_SECONDS and self._piece > 1024:
                    self._piece //= 2
            if any(n > 0 for n in left.values()) and self._save_late(mine):
                return False  # a checkpoint that the service does not know saves nothing
        return True

    def _save_late(self, mine: list[Held]) -> bool:
        """Saves trials that were not for long; whether there are any."""
        late = [h for h in mine if time.monotonic() - h.saved_at > self.save_seconds]
        for held in late:
            self.save(held)
        return bool(late)

    def _target(self, held: Held) -> int:
        """Samples a trial has seen when its next evaluation is due."""
        epoch = len(self._task(held.leased)[1].train)
        return math.ceil((held.step + 1) * held.leased.epochs_per_step * epoch)

    def _evaluate(self, population: Population, mine: list[Held]) -> None:
        population.evaluate()
        table = population.measurements()
        for held in mine:
            slot = population.slot(held.slot)
            metrics = dict(table[held.slot])
            loss = metrics.get("train_loss")
            held.step += 1
            decisive = [metrics.get(name) for name in held.leased.metrics]
            missing = [n for n in held.leased.metrics if n not in metrics]
            if missing:
                held.outcome = "fail"
                held.reason = f"the task measures no {missing[0]}; it has {', '.join(metrics)}"
                continue
            finite = all(v is not None and math.isfinite(v) for v in decisive)
            if finite:
                held.news.append(
                    Measured(
                        step=held.step, metrics=metrics, samples=slot.samples, seconds=slot.seconds
                    )
                )
            if not finite or (loss is not None and slot.diverged(loss)):
                held.outcome, held.reason = "fail", "diverged"
            elif held.step >= held.leased.max_step:
                held.outcome = "complete"
            elif held.step >= held.until:
                # Saved before the verdict is asked for, so that a pause can be taken up anywhere.
                self.save(held)
        self._save_late([held for held in mine if not held.outcome])

    def save(self, held: Held) -> None:
        """Writes a trial's checkpoint; a disk that is full costs the resume, not the trial."""
        leased = held.leased
        held.saved_at = time.monotonic()  # tried, at least: a full disk is not asked all the time
        name = f"{_folder(leased)}/a{leased.attempt}-s{held.step}"
        previous = _own(held)
        try:
            uri = self.store.save(name, self.populations[held.key].state_dict(held.slot))
        except OSError as error:
            log.warning("trial %s was not saved: %s", leased.trial_id, error)
            return
        held.checkpoint = Checkpoint(uri=uri, step=held.step)
        held.known = False
        # Whoever takes the trial over before this one is known begins with the one before.
        held.replaced += [before for before in previous if before != uri]

    def _fail(self, mine: list[Held], kind: str, error: Exception) -> None:
        for held in mine:
            held.outcome = "fail"
            held.reason = kind if kind == "oom" else f"{type(error).__name__}: {first_line(error)}"

    def _samples(self) -> int:
        return sum(self.populations[h.key].slot(h.slot).samples for h in self.held.values())

    # What there is to say.

    def reports(self) -> Iterator[SlotReport]:
        """News of every trial that has some, or must be decided about."""
        for trial_id, held in self.held.items():
            if held.news or held.due or not held.known:
                yield SlotReport(
                    trial_id=trial_id,
                    token=held.leased.token,
                    measurements=held.news,
                    outcome=held.outcome,
                    reason=held.reason,
                    checkpoint=held.checkpoint,
                )

    def status(self) -> dict[str, Any]:
        """Slots in use, speed, and which engine runs and why."""
        engines = [p.engine.explanation for p in self.populations.values() if p.active]
        return {
            "slots_in_use": len(self.held),
            "samples_per_second": round(self.samples_per_second, 1),
            "engine": "; ".join(dict.fromkeys(engines)),
        }


def _folder(leased: Leased) -> str:
    """Where a trial's checkpoints are."""
    return f"study-{leased.study_id}/trial-{leased.number}"


def _own(held: Held) -> list[str]:
    """The trial's last checkpoint, unless it is one of another trial, whose copy it began as."""
    last = held.checkpoint or held.leased.checkpoint
    return [last.uri] if last is not None and f"/{_folder(held.leased)}/" in last.uri else []


def _failed(leased: Leased, kind: str, error: Exception) -> SlotReport:
    reason = kind if kind == "oom" else f"{type(error).__name__}: {first_line(error)}"
    return SlotReport(trial_id=leased.trial_id, token=leased.token, outcome="fail", reason=reason)
