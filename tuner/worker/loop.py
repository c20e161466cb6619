"""The worker: leases trials, trains them in populations, reports, and fills the slots again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tuner import logs, tasks
from tuner.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    TooLarge,
    TunerError,
    Unauthorized,
)
from tuner.patience import patiently
from tuner.protocol import (
    Gateway,
    Heartbeat,
    Leased,
    LeaseRequest,
    Probe,
    ProbeReport,
    Report,
    SlotReport,
    WorkerHello,
)
from tuner.tasks import Task
from tuner.tasks.form import Name
from tuner.training.checkpoint import CheckpointStore
from tuner.training.engine import Choice
from tuner.worker import device as devices
from tuner.worker.crew import SAVE_SECONDS, Crew
from tuner.worker.datasets import DatasetCache
from tuner.worker.probe import run_probe
from tuner.worker.scripts.config import Scripts
from tuner.worker.scripts.crew import ScriptCrew
from tuner.worker.team import Team

log = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
"""Measurements that need no verdict wait for company at most this long."""
IDLE_SECONDS = (0.05, 1.0)
"""The first and the longest wait for work when there is none."""
FINAL = (Conflict, Forbidden, InvalidInput, NotFound, TooLarge, Unauthorized)
"""What the service answers again however often it is asked; all else passes, and is waited for."""


def load_task(path: str) -> str:
    """Registers a task given as ``package.module:Class``; its name.

    Raises:
        InvalidInput: It cannot be imported, or is no task.
    """
    module, _, attribute = path.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # a module runs as it is imported, and may raise what it likes
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput("task", f"{path!r} cannot be loaded: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise InvalidInput("task", f"{path!r} is not a subclass of tuner.tasks.Task")
    name: str = found.__dict__.get("name", attribute.lower())
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise InvalidInput(
            "task",
            f"{path!r}: its `name` is {name!r}, which no study can say: 1 to 255 printable "
            "characters, or no `name` at all for that of the class in small letters",
        ) from error
    if name not in tasks.registry:
        tasks.registry.add(name, found)
    elif tasks.get(name) is not found:
        raise InvalidInput(
            "task", f"{path!r}: there is another task named {name!r}; set its `name`"
        )
    return name


def run_worker(
    gateway: Gateway,
    *,
    name: str,
    device: str = "auto",
    slots: int | None = None,
    tasks: Sequence[str] = (),
    home: Path = Path(".tuner"),
    checkpoints: str | None = None,
    stop: threading.Event | None = None,
    engine: Choice = "auto",
    sharing: int = 1,
    scripts: Scripts = MappingProxyType({}),
    save_seconds: float = SAVE_SECONDS,
    wait_seconds: float = 0.0,
) -> None:
    """Works until ``stop`` is set or the service drains this worker.

    Args:
        gateway: The way to the service.
        name: What the worker is called.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...
        slots: Trials trained at once; by default begun with a few and then as many as pay.
        tasks: Further tasks, as ``package.module:Class``.
        home: Where checkpoints and fetched datasets go.
        checkpoints: Where checkpoints go instead: a folder, or an address that fsspec knows.
            Scripts, which need a folder, keep theirs in ``home`` where this is none.
        stop: Ends the work: slots are saved and their leases returned.
        engine: ``auto``, or an engine to insist on.
        sharing: How many workers share the device and its memory.
        scripts: Programs that it may run, by name; see ``tuner.worker.scripts.config``.
        save_seconds: How often each trial is saved.
        wait_seconds: How long to wait for the service at first; later it waits without end.

    Raises:
        InvalidInput: There is no such device or task, or no checkpoint can be written.
        Unavailable: The service could not be reached to register.
        NotFound: The service knows this worker no more.
        Unauthorized: Its token is not good any more; ``Forbidden`` where it lacks the scope.
        TunerError: The device works no more in this process; another may go on with it.
    """
    stop = stop or threading.Event()
    for path in tasks:
        load_task(path)
    chosen = devices.choose(device)
    devices.prepare(chosen, sharing)
    root = home / "checkpoints"
    store, datasets = CheckpointStore(checkpoints or root), DatasetCache(home / "datasets", gateway)
    store.check()
    crew = Crew(
        chosen,
        slots or devices.MOST_SLOTS[chosen.type],
        store,
        engine=engine,
        memory=None if sharing == 1 else devices.memory_to_plan_on(chosen, sharing),
        save_seconds=save_seconds,
        locate=datasets.located,
    )
    team = Team(crew, ScriptCrew(scripts, chosen, store.folder or root))
    worker = _Worker(gateway, name, team, slots, stop, wait_seconds)
    with logs.bound(worker=worker.id):
        worker.run()


class _Worker:
    def __init__(
        self,
        gateway: Gateway,
        name: str,
        team: Team,
        slots: int | None,
        stop: threading.Event,
        wait_seconds: float,
    ) -> None:
        self.gateway = gateway
        self.stop = stop
        self.team = team
        self.device = team.populations.device
        self.most = team.populations.slots
        self.wanted = slots or devices.FIRST_SLOTS[self.device.type]
        self.fixed = slots is not None
        hello = WorkerHello(
            name=name,
            device=devices.describe(self.device),
            tasks=team.tasks,
            slots=self.most,
            forms=team.forms,
        )
        self.registration = patiently(
            lambda: gateway.register(hello), seconds=wait_seconds, stop=stop
        )
        self.id = self.registration.worker_id
        self.draining = False
        self._dropped: set[tuple[int, str]] = set()
        """Leases that are lost: a trial may have been taken again under another one since."""
        self._asked: LeaseRequest | None = None
        """A request for work that no answer has come to."""
        self._arriving: dict[int, str] = {}
        """The leases of trials that are about to be held."""
        self._probe: Probe | None = None
        """The range test in hand; it is run before anything else."""
        self._dropped_probes: set[str] = set()
        self._measured: ProbeReport | None = None
        self._status: dict[str, Any] = {}
        self._failures: list[SlotReport] = []
        self._lock = threading.Lock()
        self._done = threading.Event()

    def run(self) -> None:
        beats = threading.Thread(
            target=copy_context().run, args=(self._beat,), name="heartbeat", daemon=True
        )
        beats.start()
        idle = IDLE_SECONDS[0]
        said = time.monotonic()
        crew = self.team.populations
        try:
            while not self.stop.is_set() and not crew.lost:
                self._forget_dropped()
                if self._probe is not None:
                    self._measure(self._probe)
                    continue
                if self.team.busy and self._asked is not None:
                    self._lease()
                if not self.team.busy:
                    if self._failures:
                        self._report()
                        continue
                    if self.draining:
                        break
                    if self._lease():
                        idle = IDLE_SECONDS[0]
                    else:
                        self.stop.wait(idle)
                        idle = min(2 * idle, IDLE_SECONDS[1])
                    continue
                self.team.round(self._interrupted)
                if not crew.lost and self._has_news(time.monotonic() - said):
                    self._report()
                    self._resize()
                    said = time.monotonic()
            self._hand_back()
        finally:
            self.team.scripts.close()
            self._done.set()
            beats.join()
        if crew.lost:
            # No goodbye, which would hand back what it was lost over: that counts as a loss.
            raise TunerError(f"{self.device} works no more in this process: {crew.lost}")
        try:
            self.gateway.leave(self.id)
        except TunerError as error:
            log.warning("left without saying goodbye: %s", error)

    def _has_news(self, seconds: float) -> bool:
        """Whether a report is due, so long after the last one."""
        waiting = any(held.due for held in self.team.held.values())
        worth = self.team.talkative or bool(self._failures)
        return waiting or (seconds > REPORT_SECONDS and worth)

    # Talking to the service.

    def _lease(self) -> bool:
        """Takes as many trials as there is room for, or a range test; whether there was any."""
        found = False
        # The same request until it is answered: what it was given it is given again.
        while (request := self._asked or self._request()) is not None:
            self._asked = request
            try:
                answer = self.gateway.lease(self.id, request)
            except FINAL:
                raise
            except TunerError as error:
                log.warning("no answer to a request for work: %s", error)
                break
            self._asked = None
            self.draining = answer.drain
            self._probe = self._probe or answer.probe
            found = found or bool(answer.leased or answer.probe)
            self._take(answer.leased)
            short = len(answer.leased) < request.k
            if short or not self.team.held or self.team.populations.lost:
                break
        return found

    def _request(self) -> LeaseRequest | None:
        """Asks for as many trials as there is room for; None: there is none."""
        room = self.team.room(self.wanted)
        if room < 1:
            return None
        return LeaseRequest(k=room, prefer=self._study(), tasks=self.team.fitting)

    def _take(self, leased: Sequence[Leased]) -> None:
        # Reading data and measuring memory may take longer than a lease lives.
        self._arriving = {trial.trial_id: trial.token for trial in leased}
        for trial in leased:
            with logs.bound(study=trial.study_id, trial=trial.trial_id):
                failure = self.team.take(trial)
            if failure is not None:
                self._failures.append(failure)
        self._arriving = {}
        self.wanted = min(self.wanted, self.team.populations.room)

    def _study(self) -> int | None:
        """The study that it trains, whose population may have room."""
        return next((held.leased.study_id for held in self.team.held.values()), None)

    def _report(self) -> None:
        """Says all news, carries out the verdicts, and takes the refills."""
        self._status = self._look()
        printed = self.team.printed()
        report = Report(
            slots=[*self._failures, *self.team.reports()],
            probe=self._measured,
            printed=printed,
            refill=self._refill(),
            prefer=self._study(),
            tasks=self.team.fitting,
            status=self._status,
        )
        while True:
            try:
                answer = self.gateway.report(self.id, report)
                break
            except FINAL:
                raise
            except TunerError as error:
                log.warning("a report was not taken, trying again: %s", error)
                if self.stop.wait(1.0):
                    return
        self._failures.clear()
        self._measured = None
        self._probe = self._probe or answer.probe
        self.team.told(printed)
        self.draining = answer.drain
        for verdict in answer.verdicts:
            held = self.team.held.get(verdict.trial_id)
            if held is None:
                continue
            if verdict.action != "lost":
                self.team.heard(verdict.trial_id)
            if verdict.action == "continue" and not held.outcome:
                self.team.go_on(verdict.trial_id, verdict.until)
            else:
                self.team.drop(verdict.trial_id, forget=verdict.action in ("finish", "stop"))
        self._take(answer.leased)
        self._status = self._look()  # what has ended since is no speed of now

    def _look(self) -> dict[str, Any]:
        """For the heart, which beats in a thread of its own: the crew may change as it reads."""
        return {**self.team.status(), **devices.memory_status(self.device)}

    def _measure(self, probe: Probe) -> None:
        """Runs a study's range test at once; what the worker holds besides waits that long."""

        def interrupted() -> bool:
            return self.stop.is_set() or probe.token in self._dropped_probes

        measured = run_probe(self.team.populations, probe, interrupted)
        # Over which the device was lost keeps its lease, as trials do: see _hand_back.
        self._measured = None if self.team.populations.lost else measured
        self._probe = None
        with self._lock:
            self._dropped_probes.clear()
        if not self.stop.is_set() and not self.team.populations.lost:
            self._report()

    def _refill(self) -> int:
        """Trials wanted besides one for each slot that the verdicts free."""
        if self._probe is not None:
            return -self.most
        # A trial that could not start frees no slot, yet its verdict counts as one.
        if self.team.populations.held or not self.team.scripts.scripts:
            return self.wanted - len(self.team.populations.held) - len(self._failures)
        # A script's successor is asked for when the device is free again.
        return -len(self.team.held) - len(self._failures)

    def _hand_back(self) -> None:
        """Saves every slot and returns its lease, so that another worker goes on at once.

        What was in training when the device was lost keeps its lease, which then runs out: what
        breaks the device of one worker after another ends as what kills them does.
        """
        whole = not self.team.populations.lost
        if whole:
            self.team.save()
        held = self.team.held.values()
        slots = [*self._failures, *(h.report(returned=whole) for h in held)]
        while slots or self._measured is not None or self.team.printed():
            printed = self.team.printed()
            report = Report(
                slots=slots,
                probe=self._measured,
                printed=printed,
                refill=-len(slots),  # each that is returned counts as free, and nobody fills it
                status=self.team.status(),
            )
            try:
                self.gateway.report(self.id, report)
            except TunerError as error:
                log.warning("leases could not be returned; they will expire: %s", error)
                return
            slots, self._measured = [], None
            self.team.told(printed)

    def _beat(self) -> None:
        """Keeps the leases alive while a long round trains."""
        while not self._done.wait(self.registration.heartbeat_seconds):
            held = {i: h.leased.token for i, h in self.team.held.items()}
            # What could not start is the worker's until it has said so.
            failures = {slot.trial_id: slot.token for slot in self._failures}
            held = {**failures, **self._arriving, **held}
            probe = self._probe
            probes = {} if probe is None else {probe.study_id: probe.token}
            beat = Heartbeat(held=held, probes=probes, status=self._status)
            try:
                answer = self.gateway.heartbeat(self.id, beat)
            except TunerError as error:
                log.warning("a heartbeat was not heard: %s", error)
                continue
            with self._lock:
                self._dropped |= {(i, held[i]) for i in held.keys() & set(answer.drop)}
                self._dropped_probes |= {probes[i] for i in probes.keys() & set(answer.drop_probes)}
            self.draining = self.draining or answer.drain

    def _interrupted(self) -> bool:
        return self.stop.is_set() or bool(self._dropped)

    def _forget_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, set()
        for trial_id, token in dropped:
            held = self.team.held.get(trial_id)
            if held is not None and held.leased.token == token:
                self.team.drop(trial_id)

    def _resize(self) -> None:
        """Wants as many trials as the engine's measurements say pay."""
        if self.fixed:
            return
        crew = self.team.populations
        advice = [p.engine.wanted_slots() for p in crew.populations.values() if p.active]
        known = [k for k in advice if k is not None]
        if known:
            self.wanted = min(self.most, max(known), crew.room)
