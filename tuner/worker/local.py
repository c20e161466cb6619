"""A study trained without a server: workers beside a process that owns the database.

On a CPU several processes of one thread each beat one process with many threads, since the
matrices are small. Each speaks to its parent over a pipe, and only the parent touches the database.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tuner import service
from tuner.errors import TunerError, Unavailable
from tuner.protocol import (
    Gateway,
    Heartbeat,
    HeartbeatAnswer,
    LeaseAnswer,
    LeaseRequest,
    Registration,
    Report,
    ReportAnswer,
    WorkerHello,
)
from tuner.service import Context
from tuner.service.background import running
from tuner.training.checkpoint import CheckpointStore
from tuner.training.engine import Choice
from tuner.worker import device as devices
from tuner.worker.crew import SAVE_SECONDS
from tuner.worker.direct import DirectGateway
from tuner.worker.loop import load_task, run_worker
from tuner.worker.places import Place, cores, on_cpu, places
from tuner.worker.scripts.config import Scripts

log = logging.getLogger(__name__)

TICK_SECONDS = 0.2


def spread(device: str, processes: int | None = None) -> list[Place]:
    """Where worker processes train.

    Args:
        device: ``auto`` takes all GPUs where there are some, else the CPU.
        processes: How many; one for each GPU unless given, or one for each core up to a few.

    Raises:
        InvalidInput: There is no such device.
    """
    chosen = devices.choose(device)
    if chosen.type == "cpu":
        return places(processes or on_cpu(), 0)
    if device == "auto":
        gpus = torch.cuda.device_count()
        return places(processes or gpus, gpus)
    return [Place(device, processes or 1)] * (processes or 1)


def run_study(
    context: Context,
    study_id: int,
    *,
    device: str = "auto",
    slots: int | None = None,
    tasks: Sequence[str] = (),
    home: Path = Path(".tuner"),
    checkpoints: str | None = None,
    stop: threading.Event | None = None,
    processes: int | None = None,
    engine: Choice = "auto",
    scripts: Scripts = MappingProxyType({}),
    save_seconds: float = SAVE_SECONDS,
) -> None:
    """Trains a study until it ends or ``stop`` is set; everything reported is in the database.

    Args:
        context: The service.
        study_id: Which study.
        device: ``auto``, ``cpu``, ``cuda:0`` ...; see :func:`spread`.
        slots: Trials at once in each process; by default as many as pay.
        tasks: Further tasks, as ``package.module:Class``.
        home: Where checkpoints and fetched datasets go.
        checkpoints: Where checkpoints go instead; see :func:`run_worker`.
        stop: Ends early; running trials are saved and go on when the study is run again.
        processes: Worker processes; chosen by device unless given.
        engine: ``auto``, or an engine to insist on.
        scripts: Programs that the workers may run, by name.
        save_seconds: How often each trial is saved.

    Raises:
        InvalidInput: There is no such task, or no checkpoint can be written.
        Unavailable: All worker processes have ended before the study.
    """
    stop = stop or threading.Event()
    for path in tasks:
        load_task(path)
    CheckpointStore(checkpoints or home / "checkpoints").check()
    found = spread(device, processes)
    threads = max(1, cores() // len(found))
    # A fork starts at once, since torch is loaded already. But its OpenMP threads and its CUDA
    # context do not survive one, so it is for workers that use neither.
    forkable = threads == 1 and found[0].device == "cpu" and sys.platform == "linux"
    start = (
        multiprocessing.get_context("fork") if forkable else multiprocessing.get_context("spawn")
    )
    options = {
        "slots": slots,
        "tasks": list(tasks),
        "home": home,
        "checkpoints": checkpoints,
        "engine": engine,
        "scripts": dict(scripts),
        "save_seconds": save_seconds,
    }
    ends: list[Connection] = []
    children: list[Any] = []
    for index, place in enumerate(found):
        here, there = start.Pipe()
        child = start.Process(
            target=_child,
            args=(
                there,
                [*ends, here] if forkable else [],
                f"local-{index}",
                threads,
                {**options, "device": place.device, "sharing": place.sharing},
            ),
            name=f"tuner worker {index}",
            daemon=True,
        )
        child.start()
        there.close()
        ends.append(here)
        children.append(child)
    gateway = DirectGateway(context)
    servers = [threading.Thread(target=_serve, args=(end, gateway), daemon=True) for end in ends]
    for server in servers:
        server.start()
    try:
        with running(*service.chores(context, TICK_SECONDS)):
            while not stop.wait(TICK_SECONDS):
                if service.show_study(context, study_id).over:
                    break
                if not any(child.is_alive() for child in children):
                    raise Unavailable("all local workers have ended; the log says why")
    finally:
        for child in children:
            if child.is_alive():
                os.kill(child.pid, signal.SIGTERM)
        for child in children:
            child.join(timeout=30)
            if child.is_alive():
                child.kill()
                child.join()
        for server in servers:
            server.join()
    service.tick(context)  # what the study's end left to do


def _child(
    end: Connection, inherited: Sequence[Connection], name: str, threads: int, options: Any
) -> None:
    """The life of a worker process."""
    for other in inherited:
        other.close()  # so that a closed pipe is seen as closed
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops us
    torch.set_num_threads(threads)
    try:
        run_worker(PipeGateway(end, stop), name=name, stop=stop, **options)
    except TunerError as error:
        log.warning("%s ends: %s", name, error)


def _serve(end: Connection, gateway: Gateway) -> None:
    """Answers one child's calls until its end of the pipe closes."""
    with end:
        while True:
            try:
                call, arguments = end.recv()
                end.send(_answer(getattr(gateway, call), arguments))
            except (EOFError, OSError):
                return


def _answer(method: Callable[..., Any], arguments: Sequence[Any]) -> tuple[bool, Any]:
    """Whether a call went well, and what it returns or raises."""
    try:
        return True, method(*arguments)
    except TunerError as error:
        return False, error
    except Exception as error:  # a bug: the child, which waits, is told as a server would tell it
        log.exception("a worker's call failed: %s", method.__name__)
        return False, TunerError(f"the service failed: {type(error).__name__}: {error}")


class PipeGateway:
    """A ``tuner.protocol.Gateway`` whose other end is the parent process.

    Args:
        end: This process's end of the pipe.
        stop: Set when the parent is gone: nobody will ever take a report, and nobody waits.
    """

    def __init__(self, end: Connection, stop: threading.Event) -> None:
        self._end = end
        self._stop = stop
        self._lock = threading.Lock()

    def register(self, hello: WorkerHello) -> Registration:
        """Introduces the worker."""
        answer: Registration = self._call("register", hello)
        return answer

    def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
        """Takes up to ``request.k`` trials."""
        answer: LeaseAnswer = self._call("lease", worker_id, request)
        return answer

    def report(self, worker_id: int, report: Report) -> ReportAnswer:
        """Delivers a round's news."""
        answer: ReportAnswer = self._call("report", worker_id, report)
        return answer

    def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
        """Renews leases."""
        answer: HeartbeatAnswer = self._call("heartbeat", worker_id, beat)
        return answer

    def leave(self, worker_id: int) -> None:
        """Says goodbye."""
        self._call("leave", worker_id)

    def fetch(self, sha256: str, target: Path) -> None:
        """Has an uploaded dataset copied."""
        self._call("fetch", sha256, target)

    def _call(self, name: str, *arguments: Any) -> Any:
        with self._lock:
            try:
                self._end.send((name, arguments))
                good, answer = self._end.recv()
            except (EOFError, OSError) as error:
                self._stop.set()
                raise Unavailable("the parent process has ended") from error
        if good:
            return answer
        raise answer
