"""The worker processes that ``tuner serve``, or a ``tuner worker`` of several GPUs, starts.

A child holds a pipe to its parent and stops when it closes, so that no worker outlives a parent
that was killed. One that dies is started again a few times, later each time, and then no more; it
has all its starts again after it has worked for a while. One that ends in order was drained, and
stays away, as does one whose token the server refuses.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.settings import Settings
from tuner.worker.places import Place, cores

if TYPE_CHECKING:
    from tuner.worker.scripts.config import Scripts

logger = logging.getLogger(__name__)

RESTARTS = 5
"""How often one worker is started again in a row before it is given up."""

SETTLED_SECONDS = 600.0
"""One that has run for so long died of something else than the times before."""

REFUSED = 77
"""The exit code (``EX_NOPERM``) of a worker whose token the server refuses; its parent says so."""

GRACE_SECONDS = 20.0
"""How long a worker may take to save its slots and return its leases."""


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes]
    started: float
    restarts: int = 0
    due: float = 0.0
    given_up: bool = False


class Children:
    """Runs commands, each in a process, until it is told to stop.

    Args:
        commands: What to run.
        environment: Variables added to this process's own.
        pause_seconds: Wait before the first restart; it doubles with each.
        log: A file that takes what the children print; else it goes where this process prints.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        environment: Mapping[str, str] | None = None,
        pause_seconds: float = 1.0,
        log: Path | None = None,
    ) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self._pause_seconds = pause_seconds
        self._log = log
        self._stopping = threading.Event()
        self.refused = False
        """Whether the server has refused the token of one, which all of them have."""
        self._children = [
            _Child(f"worker {index}", command, self._start(command), time.monotonic())
            for index, command in enumerate(commands)
        ]
        self._watcher = threading.Thread(target=self._watch, name="children", daemon=True)
        self._watcher.start()

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [child.process.pid for child in self._children if child.process.poll() is None]

    @property
    def ended(self) -> bool:
        """Whether none runs, or will be started again."""
        return all(child.given_up for child in self._children)

    @property
    def failed(self) -> bool:
        """Whether one ended otherwise than it was told to, and is not started again."""
        return any(child.given_up and child.process.returncode for child in self._children)

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Asks every child to end, waits, and kills what is left."""
        self._stopping.set()
        self._watcher.join()
        for child in self._children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + grace_seconds
        for child in self._children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("%s did not stop in time and is killed", child.name)
                child.process.kill()
                child.process.wait()
            if child.process.stdin:
                child.process.stdin.close()

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with ExitStack() as stack:
            sink = stack.enter_context(self._log.open("ab")) if self._log else None
            return subprocess.Popen(
                list(command),
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                # Ctrl-C at the terminal is for this process, which stops its workers in order.
                start_new_session=True,
            )

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            for child in self._children:
                self._mend(child)

    def _mend(self, child: _Child) -> None:
        if child.given_up or child.process.poll() is None:
            return
        code = child.process.returncode
        if code == REFUSED:
            child.given_up = True
            if not self.refused:
                self.refused = True
                logger.error(
                    "the server refuses the token of these workers: it is wrong, expired or "
                    "revoked, or lacks the scope work"
                )
            return
        if code == 0:
            child.given_up = True
            logger.info("%s has ended as it was told to", child.name)
            return
        if child.due == 0.0:
            if time.monotonic() - child.started > SETTLED_SECONDS:
                child.restarts = 0
            if child.restarts >= RESTARTS:
                child.given_up = True
                logger.error("%s ended %d times and is not started again", child.name, RESTARTS + 1)
                return
            pause = self._pause_seconds * 2**child.restarts
            child.due = time.monotonic() + pause
            logger.warning("%s ended with code %s; next start in %g s", child.name, code, pause)
        elif time.monotonic() >= child.due:
            if child.process.stdin:
                child.process.stdin.close()
            child.restarts += 1
            child.due = 0.0
            child.process = self._start(child.command)
            child.started = time.monotonic()


def workers_at(
    places: Sequence[Place],
    settings: Settings,
    *,
    name: str,
    tasks: Sequence[str] = (),
    config: Path | None = None,
    slots: int | None = None,
    log: Path | None = None,
) -> Children:
    """A worker at each place, run by this same Python.

    Args:
        places: Where they train.
        settings: The server, the token, and where they keep what they write.
        name: What they are called, followed by a number.
        tasks: Other tasks that they load: ``MODULE:CLASS``.
        config: The file of the scripts that they may run; by default that of the home.
        slots: Trials that each trains at once; measured by default.
        log: A file for what they log, else standard error.
    """
    environment = {
        "TUNER_URL": settings.url,
        "TUNER_HOME": str(settings.home.absolute()),
        "TUNER_LOG_LEVEL": settings.log_level,
        "TUNER_LOG_JSON": str(settings.log_json),
        # Processes that each take every core slow each other down.
        "OMP_NUM_THREADS": str(max(1, cores() // len(places))),
    }
    if settings.secret is not None:
        environment["TUNER_TOKEN"] = settings.secret
    if settings.checkpoints is not None:
        environment["TUNER_CHECKPOINTS"] = settings.checkpoints
    command = [sys.executable, "-m", "tuner", "worker", "--exit-with-parent"]
    options = [word for path in tasks for word in ("--task", path)]
    options += [] if slots is None else ["--slots", str(slots)]
    options += [] if config is None else ["--config", str(config.absolute())]
    commands = [
        [
            *(*command, "--name", f"{name}-{index}"),
            *("--device", place.device, "--sharing", str(place.sharing)),
            *options,
        ]
        for index, place in enumerate(places)
    ]
    return Children(commands, environment=environment, log=log)


def grace_seconds(scripts: Scripts) -> float:
    """How long workers with these scripts may take to end.

    A script may end by itself for as long as it may take to be made to.
    """
    return GRACE_SECONDS + 2 * max((script.grace_seconds for script in scripts.values()), default=0)


def when_parent_ends(stop: threading.Event) -> None:
    """Sets ``stop`` when standard input closes, which it does when the parent ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        stop.set()

    threading.Thread(target=watch, name="parent", daemon=True).start()
