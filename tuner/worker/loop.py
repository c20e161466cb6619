"""The worker: leases trials, trains them in populations, reports, and fills the slots again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tuner import tasks
from tuner.errors import InvalidInput, TunerError, Unavailable
from tuner.protocol import Gateway, Heartbeat, Leased, LeaseRequest, Report, SlotReport, WorkerHello
from tuner.tasks import Task
from tuner.training.checkpoint import CheckpointStore
from tuner.training.engine import Choice
from tuner.worker import device as devices
from tuner.worker.crew import SAVE_SECONDS, Crew

log = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
"""Measurements that need no verdict wait for company at most this long."""
IDLE_SECONDS = (0.05, 1.0)
"""The first and the longest wait for work when there is none."""


def load_task(path: str) -> str:
    """Registers a task given as ``package.module:Class``; its name.

    Raises:
        InvalidInput: It cannot be imported, or is no task.
    """
    module, _, attribute = path.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInput("task", f"{path!r} cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise InvalidInput("task", f"{path!r} is not a subclass of tuner.tasks.Task")
    name = found.__dict__.get("name") or attribute.lower()
    found.name = name
    if name not in tasks.registry:
        tasks.registry.add(name, found)
    return name


def run_worker(
    gateway: Gateway,
    *,
    name: str,
    device: str = "auto",
    slots: int | None = None,
    tasks: Sequence[str] = (),
    home: Path = Path(".tuner"),
    stop: threading.Event | None = None,
    engine: Choice = "auto",
    memory: int | None = None,
    checkpoints: str | Path | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> None:
    """Works until ``stop`` is set or the service drains this worker.

    Args:
        gateway: The way to the service.
        name: What the worker is called.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...
        slots: Trials trained at once; by default begun with a few and then as many as pay.
        tasks: Further tasks, as ``package.module:Class``.
        home: Where checkpoints go, under ``checkpoints``, unless told otherwise.
        stop: Ends the work: slots are saved and their leases returned.
        engine: ``auto``, or an engine to insist on.
        memory: Bytes that one population may take; by default most of what is free.
        checkpoints: A folder, or an address that fsspec knows, where checkpoints go.
        save_seconds: How often each trial is saved.

    Raises:
        InvalidInput: There is no such device or task, or nothing that reaches ``checkpoints``.
        Unavailable: The service could not be reached to register.
    """
    stop = stop or threading.Event()
    store = CheckpointStore(checkpoints or home / "checkpoints")
    _Worker(gateway, name, device, slots, tasks, store, stop, engine, memory, save_seconds).run()


class _Worker:
    def __init__(
        self,
        gateway: Gateway,
        name: str,
        device: str,
        slots: int | None,
        paths: Sequence[str],
        store: CheckpointStore,
        stop: threading.Event,
        engine: Choice,
        memory: int | None,
        save_seconds: float,
    ) -> None:
        for path in paths:
            load_task(path)
        self.gateway = gateway
        self.stop = stop
        self.device = devices.choose(device)
        kind = self.device.type
        self.most = slots or devices.MOST_SLOTS[kind]
        self.wanted = slots or devices.FIRST_SLOTS[kind]
        self.fixed = slots is not None
        self.crew = Crew(
            self.device, self.most, store, engine=engine, memory=memory, save_seconds=save_seconds
        )
        self.registration = gateway.register(
            WorkerHello(
                name=name,
                device=devices.describe(self.device),
                tasks=tasks.registry.names(),
                slots=self.most,
            )
        )
        self.id = self.registration.worker_id
        self.draining = False
        self._dropped: set[tuple[int, str]] = set()
        self._asked: LeaseRequest | None = None
        self._arriving: dict[int, str] = {}
        self._status: dict[str, Any] = {}
        self._failures: list[SlotReport] = []
        self._lock = threading.Lock()
        self._done = threading.Event()

    def run(self) -> None:
        beats = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beats.start()
        idle = IDLE_SECONDS[0]
        said = time.monotonic()
        try:
            while not self.stop.is_set():
                self._forget_dropped()
                if not self.crew.held:
                    if self.draining:
                        break
                    if self._lease():
                        idle = IDLE_SECONDS[0]
                    else:
                        self.stop.wait(idle)
                        idle = min(2 * idle, IDLE_SECONDS[1])
                    continue
                self.crew.round(self._interrupted)
                waiting = any(held.due for held in self.crew.held.values())
                if waiting or time.monotonic() - said > REPORT_SECONDS:
                    self._report()
                    self._resize()
                    said = time.monotonic()
            self._hand_back()
        finally:
            self._done.set()
            beats.join()
        try:
            self.gateway.leave(self.id)
        except Unavailable as error:
            log.warning("left without saying goodbye: %s", error)

    # Talking to the service.

    def _lease(self) -> bool:
        # The same request until it is answered: what it was given it would be given again.
        self._asked = self._asked or LeaseRequest(k=self.wanted)
        try:
            answer = self.gateway.lease(self.id, self._asked)
        except Unavailable as error:
            log.warning("no answer to a request for work: %s", error)
            return False
        self._asked = None
        self.draining = answer.drain
        self._take(answer.leased)
        return bool(answer.leased)

    def _take(self, leased: Sequence[Leased]) -> None:
        # Reading data and measuring memory may take longer than a lease lives.
        self._arriving = {trial.trial_id: trial.token for trial in leased}
        for trial in leased:
            failure = self.crew.take(trial)
            if failure is not None:
                self._failures.append(failure)
        self._arriving = {}
        self.wanted = min(self.wanted, self.crew.room)
        if self._failures and not self.crew.held:
            self._report()

    def _report(self) -> None:
        """Says all news, carries out the verdicts, and takes the refills."""
        # The heart beats in a thread of its own, which must not read the crew while it changes.
        self._status = {**self.crew.status(), **devices.memory_status(self.device)}
        report = Report(
            slots=[*self._failures, *self.crew.reports()],
            # A trial that could not start frees no slot, yet its verdict counts as one.
            refill=self.wanted - len(self.crew.held) - len(self._failures),
            prefer=next((h.leased.study_id for h in self.crew.held.values()), None),
            status=self._status,
        )
        while True:
            try:
                answer = self.gateway.report(self.id, report)
                break
            except Unavailable as error:
                log.warning("a report was not taken, trying again: %s", error)
                if self.stop.wait(1.0):
                    return
        self._failures.clear()
        self.draining = answer.drain
        for verdict in answer.verdicts:
            held = self.crew.held.get(verdict.trial_id)
            if held is None:
                continue
            held.news.clear()
            if verdict.action != "lost":
                self.crew.acknowledged(verdict.trial_id)
            if verdict.action == "continue" and not held.outcome:
                held.until = max(verdict.until, held.step + 1)
            else:
                self.crew.drop(verdict.trial_id, forget=verdict.action in ("finish", "stop"))
        self._take(answer.leased)

    def _hand_back(self) -> None:
        """Saves every slot and returns its lease, so that another worker goes on at once."""
        slots = list(self._failures)
        for trial_id, held in self.crew.held.items():
            if not held.outcome:
                self.crew.save(held)
            slots.append(
                SlotReport(
                    trial_id=trial_id,
                    token=held.leased.token,
                    measurements=held.news,
                    outcome=held.outcome or "returned",
                    reason=held.reason,
                    checkpoint=held.checkpoint,
                )
            )
        if not slots:
            return
        try:
            # Each slot that is returned counts as free, and nobody is here to fill it.
            report = Report(slots=slots, refill=-len(slots), status=self.crew.status())
            self.gateway.report(self.id, report)
        except Unavailable as error:
            log.warning("leases could not be returned; they will expire: %s", error)

    def _beat(self) -> None:
        """Keeps the leases alive while a long round trains."""
        while not self._done.wait(self.registration.heartbeat_seconds):
            held = {i: h.leased.token for i, h in list(self.crew.held.items())}
            held = {**self._arriving, **held}
            try:
                answer = self.gateway.heartbeat(self.id, Heartbeat(held=held, status=self._status))
            except TunerError as error:
                log.warning("a heartbeat was not heard: %s", error)
                continue
            with self._lock:
                self._dropped |= {(i, held[i]) for i in answer.drop if i in held}
            self.draining = self.draining or answer.drain

    def _interrupted(self) -> bool:
        return self.stop.is_set() or bool(self._dropped)

    def _forget_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, set()
        for trial_id, token in dropped:
            held = self.crew.held.get(trial_id)
            # By now it may be held again, under another lease.
            if held is not None and held.leased.token == token:
                self.crew.drop(trial_id)

    def _resize(self) -> None:
        """Wants as many trials as the engine's measurements say pay."""
        if self.fixed:
            return
        advice = [p.engine.wanted_slots() for p in self.crew.populations.values() if p.active]
        known = [k for k in advice if k is not None]
        if known:
            self.wanted = min(self.most, max(known), self.crew.room)
