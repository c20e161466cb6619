"""The trials a worker holds, grouped into populations, and trained a round at a time.

Knows no gateway: trials come in as leases, measurements and checkpoints go out.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tuner import folders, tasks
from tuner.errors import NotFound, OutOfMemory, Unavailable
from tuner.protocol import Checkpoint, Leased, Measured, Probe, SlotReport
from tuner.tasks import Config, Task
from tuner.training import Population, TrainingData, memory
from tuner.training.architecture import (
    build,
    difference,
    mixing_modules,
    structure,
    structure_key,
)
from tuner.training.checkpoint import CheckpointStore
from tuner.training.engine import Choice
from tuner.training.program import first_line
from tuner.training.slot import DEFAULT_BATCH_SIZE, rounded_up
from tuner.worker import device as devices
from tuner.worker.held import Held, failed
from tuner.worker.threads import Threads

log = logging.getLogger(__name__)

PIECE_SECONDS = 1.0
"""Training goes on in pieces of about this long, between which a stop is heard."""
AUTOCAST: Mapping[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
"""What a trial's ``precision`` means to a population, in which all have the same."""
SAVE_SECONDS = 60.0
"""How often a trial is saved though nobody decides about it."""

FULL = (OutOfMemory, torch.OutOfMemoryError)
"""Errors that say that memory is full: also for data, a new trial or a step of the optimizer, which
no smaller block would help."""

PopulationKey = tuple[Any, ...]


class NoRoom(Exception):
    """All slots of a population are taken."""


@dataclass(kw_only=True, eq=False)
class Slotted(Held):
    """A trial in a slot.

    Args:
        key: Its population's.
        slot: Where it is there.
        saved_at: When its state was last saved, by the monotonic clock.
        known: Whether the service knows of the last checkpoint.
        replaced: Its earlier checkpoints, kept until then.
    """

    key: PopulationKey
    slot: int
    saved_at: float = field(default_factory=time.monotonic)
    known: bool = True
    replaced: list[str] = field(default_factory=list)

    @property
    def own(self) -> list[str]:
        """Its last checkpoint, unless it is one of another trial, whose copy it began as."""
        last = self.checkpoint or self.leased.checkpoint
        mine = last is not None and f"/{_folder(self.leased)}/" in last.uri
        return [last.uri] if last is not None and mine else []


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
        locate: Makes a task's parameters those that are valid on this machine.
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
        locate: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
    ) -> None:
        self.device = device
        self.slots = slots
        self.store = store
        self.engine = engine
        self.dtype = dtype
        self.memory = memory
        self.save_seconds = save_seconds
        self.locate = locate
        self.held: dict[int, Slotted] = {}
        self.populations: dict[PopulationKey, Population] = {}
        self._tasks: dict[str, tuple[Task, TrainingData]] = {}
        self._piece = 4096
        self._threads = Threads(torch.get_num_threads() if device.type == "cpu" else 1)
        self.samples_per_second = 0.0
        self.lost = ""
        """Why the device does nothing any more in this process; empty while it works."""

    # Trials in and out.

    def take(self, leased: Leased) -> SlotReport | None:
        """Puts a leased trial into a slot; where it cannot be, a report of failure or no room.

        One over which the device is lost is neither held nor reported, as if the worker had died.
        """
        try:
            self._take(leased)
        except (NoRoom, Unavailable) as error:
            log.info("trial %s is handed back: %s", leased.trial_id, error)
            return SlotReport(trial_id=leased.trial_id, token=leased.token, outcome="returned")
        except FULL as error:
            return failed(leased, _reason("oom", error))
        except Exception as error:  # a task's own code may raise any: the trial, not we, fails
            log.exception("trial %s cannot start", leased.trial_id)
            self.look(error)
            return None if self.lost else failed(leased, _reason("error", error))
        return None

    def _take(self, leased: Leased) -> None:
        task, data = self.opened(leased)
        population, key = self._population(leased, task, data)
        if not population.free:
            raise NoRoom("all slots that fit memory are full")
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
        # A checkpoint's own count is of an earlier moment, or of the trial that it is a copy of.
        population.slot(slot).seconds = leased.device_seconds
        self.held[leased.trial_id] = Slotted(
            leased=leased, key=key, slot=slot, until=leased.until, step=step
        )

    def go_on(self, trial_id: int, until: int) -> None:
        """The service wants more of a trial."""
        held = self.held[trial_id]
        held.until = max(until, held.step + 1)

    def heard(self, trial_id: int) -> None:
        """The service has taken in a trial's news, so that its earlier checkpoints may go."""
        held = self.held[trial_id]
        held.news.clear()
        held.known = True
        for uri in held.replaced:
            self.store.delete(uri)
        held.replaced.clear()

    def drop(self, trial_id: int, *, forget: bool = False) -> None:
        """Empties a trial's slot; ``forget`` also removes all that was ever saved of it."""
        held = self.held.pop(trial_id, None)
        if held is None:
            return
        population = self.populations[held.key]
        population.evict(held.slot)
        if forget:
            # With what another worker left there that died before it told of it.
            mine = {self.store.address(_folder(held.leased))}
            for folder in mine | {uri.rpartition("/")[0] for uri in held.own}:
                self.store.clear(folder)
        if not population.active:
            self._tidy(held)

    def _tidy(self, last: Slotted) -> None:
        """Lets go of what no trial uses now, but for what the one that went last has used."""
        busy = any(population.active for population in self.populations.values())
        for key, population in list(self.populations.items()):
            if not population.active and (busy or key != last.key):
                del self.populations[key]
        used = {_task_name(held.leased) for held in (*self.held.values(), last)}
        self._tasks = {name: opened for name, opened in self._tasks.items() if name in used}

    def opened(self, given: Leased | Probe) -> tuple[Task, TrainingData]:
        """The task of what was handed out, and its samples on the device; opened once."""
        name = _task_name(given)
        if name not in self._tasks:
            task = tasks.get(given.task)(**self.locate(given.task_params))
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
            study = [p for known, p in self.populations.items() if known[0] == leased.study_id]
            if study and (apart := difference(structure(model), study[-1].architecture.structure)):
                log.info("trial %s does not train with others: %s", leased.trial_id, apart)
            slots, micro_batch = self.fitting(task, leased.config, data, self.slots)
            self.populations[key] = Population(
                task,
                leased.config,
                slots,
                device=self.device,
                dtype=self.dtype,
                engine=self.engine,
                data=data,
                autocast=AUTOCAST[str(leased.config.get("precision", "fp32"))],
                # Statistics over micro-batches would be another model.
                max_micro_batch=None if mixing else micro_batch,
            )
        return self.populations[key], key

    def fitting(
        self, task: Task, config: Config, data: TrainingData, most: int
    ) -> tuple[int, int | None]:
        """Slots, at most ``most``, and the largest micro-batch that memory allows a population."""
        budget = self.memory or devices.MEMORY_SHARE * devices.free_memory(self.device)
        try:
            slot = memory.measure(task, config, device=self.device, dtype=self.dtype, data=data)
        except torch.OutOfMemoryError:
            log.warning("even a small batch of %s hardly fits", task.name)
            return 1, 1
        wanted = config.get("batch_size")
        batch = int(wanted) if isinstance(wanted, int | float) else DEFAULT_BATCH_SIZE
        batch = min(batch, len(data.train))
        slots, micro_batch = slot.fit(budget, most, batch)
        if slots < most or micro_batch < batch:
            log.info(
                "%.3g MB a slot at batch size %d, %.3g MB to use: %d slots, micro-batches up to %d",
                slot.at(batch) / 1e6,
                batch,
                budget / 1e6,
                slots,
                micro_batch,
            )
        return slots, micro_batch

    def rest(self) -> None:
        """Frees the device for somebody else: all that can be made again when it is needed."""
        self.populations.clear()
        self._tasks.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

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
            except FULL as error:
                self._fail(mine, "oom", error)
            except Exception as error:  # as in take()
                study, ids = mine[0].leased.study_id, [held.leased.trial_id for held in mine]
                log.exception("a round failed", extra={"study": study, "trials": ids})
                self.look(error)
                if self.lost:
                    break  # which of them it was nobody knows
                self._fail(mine, "error", error)
        spent = time.perf_counter() - start
        if spent > 0:
            self.samples_per_second = (self._samples() - before) / spent

    def _train(
        self, population: Population, mine: list[Slotted], interrupted: Callable[[], bool]
    ) -> bool:
        left = {h.slot: self._target(h) - population.slot(h.slot).samples for h in mine}
        unit = math.lcm(*(population.slot(slot).batch_size for slot in left))
        while any(n > 0 for n in left.values()):
            if interrupted():
                return False
            self._threads.reconsider()
            longest = self._piece if self._threads.judged else self._piece // 8
            whole = max(1, longest // unit) * unit
            piece = {}
            for slot, n in left.items():
                trial = population.slot(slot)
                # A piece that ended within a batch would leave only a small common micro-batch.
                rest = min(whole - trial.position % unit, trial.train_size - trial.position)
                if n > 0:
                    piece[slot] = min(n, rest)
            start = time.perf_counter()
            with self._threads.watched():
                population.train(piece)
            spent = time.perf_counter() - start
            for slot, n in piece.items():
                left[slot] -= n
            if max(piece.values()) == whole and longest == self._piece:
                if spent < PIECE_SECONDS / 2:
                    self._piece *= 2
                elif spent > 2 * PIECE_SECONDS and self._piece > 1024:
                    self._piece //= 2
            if any(n > 0 for n in left.values()) and self._save_late(mine):
                return False  # a checkpoint that the service does not know saves nothing
        return True

    def _save_late(self, mine: list[Slotted]) -> bool:
        """Saves trials that were not for long; whether there are any."""
        late = [h for h in mine if time.monotonic() - h.saved_at > self.save_seconds]
        for held in late:
            self.save(held)
        return bool(late)

    def _target(self, held: Slotted) -> int:
        """Samples a trial has seen when its next evaluation is due."""
        epoch = len(self.opened(held.leased)[1].train)
        return rounded_up((held.step + 1) * held.leased.epochs_per_step * epoch)

    def _evaluate(self, population: Population, mine: list[Slotted]) -> None:
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
                held.fail(f"the task measures no {missing[0]}; it has {', '.join(metrics)}")
                continue
            finite = all(v is not None and math.isfinite(v) for v in decisive)
            if finite:
                held.news.append(
                    Measured(
                        step=held.step, metrics=metrics, samples=slot.samples, seconds=slot.seconds
                    )
                )
            if not finite or (loss is not None and slot.diverged(loss)):
                held.fail("diverged")
            elif held.step >= held.leased.max_step:
                held.outcome = "complete"
            elif held.step >= held.until:
                # Saved before the verdict is asked for, so that a pause can be taken up anywhere.
                self.save(held)
        self._save_late([held for held in mine if not held.outcome])

    def save(self, held: Slotted) -> None:
        """Writes a trial's checkpoint; a disk that is full costs the resume, not the trial."""
        leased = held.leased
        held.saved_at = time.monotonic()  # tried, at least: a full disk is not asked all the time
        name = f"{_folder(leased)}/a{leased.attempt}-s{held.step}"
        previous = held.own
        population = self.populations[held.key]
        try:
            uri = self.store.save(name, population.state_dict(held.slot))
        except OSError as error:
            told = {"study": leased.study_id, "trial": leased.trial_id}
            log.warning("trial %s was not saved: %s", leased.trial_id, error, extra=told)
            return
        samples = population.slot(held.slot).samples
        held.checkpoint = Checkpoint(uri=uri, step=held.step, samples=samples)
        held.known = False
        # Whoever takes the trial over before this one is known begins with the one before.
        held.replaced += [before for before in previous if before != uri]

    def look(self, error: Exception) -> None:
        """Notes an error after which CUDA refuses everything, for as long as the process lives."""
        if isinstance(error, torch.AcceleratorError):
            self.lost = first_line(error)

    def _fail(self, mine: list[Slotted], kind: str, error: Exception) -> None:
        for held in mine:
            held.fail(_reason(kind, error))

    def _samples(self) -> int:
        return sum(self.populations[h.key].slot(h.slot).samples for h in self.held.values())

    # What there is to say.

    def reports(self) -> Iterator[SlotReport]:
        """News of every trial that has some, or must be decided about."""
        for held in self.held.values():
            if held.news or held.due or not held.known:
                yield held.report()

    def status(self) -> dict[str, Any]:
        """Slots in use, speed, and which engine runs and why."""
        engines = [p.engine.explanation for p in self.populations.values() if p.active]
        return {
            "slots_in_use": len(self.held),
            "samples_per_second": round(self.samples_per_second, 1) if self.held else 0.0,
            "engine": "; ".join(dict.fromkeys(engines)),
        }


def _task_name(given: Leased | Probe) -> str:
    """What a task is known by once it is open."""
    return f"{given.task} {sorted(given.task_params.items())!r}"


def _folder(leased: Leased) -> str:
    """Where a trial's checkpoints are."""
    return folders.of_trial(leased.study_id, leased.number)


def _reason(kind: str, error: Exception) -> str:
    return kind if kind == "oom" else f"{type(error).__name__}: {first_line(error)}"
