"""One run of a script for one trial: started, listened to, told when to stop, and cleared away."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tuner import trial
from tuner.protocol import Measured, Printed
from tuner.worker.held import Held
from tuner.worker.scripts import supervisor
from tuner.worker.scripts.channel import Channel, Said
from tuner.worker.scripts.config import Script
from tuner.worker.scripts.output import Output
from tuner.worker.scripts.place import Place

log = logging.getLogger(__name__)

LOCK_SECONDS = 120.0
"""How long to wait for an earlier run of the same trial to be gone."""
HOPELESS_SECONDS = 30.0
"""How long after SIGKILL a process may take to be gone."""
LOOK_SECONDS = 0.05


@dataclass(kw_only=True, eq=False)
class Run(Held):
    """A trial whose script runs, or is about to, or ends.

    Args:
        script: What to run.
        place: The trial's own folder.
        devices: ``CUDA_VISIBLE_DEVICES``.
    """

    script: Script
    place: Place
    devices: str
    folder: Path = field(init=False)
    """For this run alone: the trial's file, the socket, what was printed."""
    output: Output = field(init=False)
    channel: Channel | None = None
    process: subprocess.Popen[bytes] | None = None
    over: bool = False
    """Whether the trial was decided about: whatever the script says now counts no more."""
    leaving: bool = False
    """Whether the worker ends: the script is stopped, and another goes on where it was."""
    leave_at: float = math.inf
    """When a script that was told to stop is made to."""
    asking: list[Said] = field(default_factory=list)
    """Those who wait for a decision."""
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tuner-"))
        self.output = Output(self.folder, self.script.log_bytes)

    @property
    def gone(self) -> bool:
        """Whether nothing of the script is left."""
        return self.process is None or self.process.poll() is not None

    def attend(self, seconds: float) -> None:
        """Starts it, or hears what it says for at most so long, and notices its end."""
        if self.process is None:
            if not (self.outcome or self.over) and not self._start():
                time.sleep(seconds)
            return
        ended = self.gone  # asked first: what was said before the end is heard below
        if self.channel is not None:
            for said in self.channel.hear(0.0 if ended else seconds):
                self._hear(said)
        if ended:
            self._end()
        elif time.monotonic() >= self.leave_at:
            self.stop()

    # What it says.

    def _hear(self, said: Said) -> None:
        if self.over or self.outcome:
            said.answer(stop=True)
        elif said.step <= self.step:
            # Another process of the same run, or a step that an earlier run has reported.
            if self.asking:
                self.asking.append(said)
            else:
                said.answer(stop=False)
        else:
            self._measure(said)

    def _measure(self, said: Said) -> None:
        step, metrics = said.step, said.metrics
        missing = [name for name in self.leased.metrics if name not in metrics]
        if missing:
            known = ", ".join(metrics)
            said.refuse("metrics", f"the study goes by {missing[0]}; there is only {known}")
            return
        if step > self.leased.max_step:
            said.refuse("step", f"{step} is beyond the training's {self.leased.max_step} steps")
            return
        self.step = step
        self.checkpoint = self.place.checkpoint(step) or self.checkpoint
        if not all(math.isfinite(metrics[name]) for name in self.leased.metrics):
            self.fail("diverged")
            said.answer(stop=True)
            return
        seconds = self.leased.device_seconds + time.monotonic() - self.began
        self.news.append(Measured(step=step, metrics=dict(metrics), seconds=seconds))
        if self.due and not self.leaving:
            self.asking.append(said)
        else:
            said.answer(stop=self.leaving)

    # What it is told.

    def go_on(self, until: int) -> None:
        """The service wants more of it."""
        self.until = max(until, self.step + 1)
        self._answer(stop=False)

    def decided(self) -> None:
        """The service wants no more of it: it is told where it asks, else made to stop."""
        self.over = True
        if self.asking:
            self.leave_at = time.monotonic() + self.script.grace_seconds
            self._answer(stop=True)
        else:
            self.stop()

    def stop(self) -> None:
        """SIGTERM now, SIGKILL after the grace; :attr:`gone` says when that has worked."""
        self.leave_at = math.inf
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def leave(self) -> None:
        """The worker ends: what the script can still save is where another goes on.

        One whose trial is decided has its grace already.
        """
        if not self.over:
            self.leaving = True
            self._answer(stop=True)
            self.stop()

    def wait(self) -> None:
        """Until nothing of the script is left, or there is no more hope of that."""
        deadline = time.monotonic() + 2 * self.script.grace_seconds + HOPELESS_SECONDS
        while self.process is not None and self.channel is not None:
            self.attend(LOOK_SECONDS)
            if time.monotonic() >= deadline:
                log.error("the script of trial %s does not end", self.leased.trial_id)
                return

    def _answer(self, *, stop: bool) -> None:
        for said in self.asking:
            said.answer(stop=stop)
        self.asking.clear()

    # Its beginning and its end.

    def _start(self) -> bool:
        """Starts the script, once no earlier run of the trial is left."""
        try:
            lock = self.place.lock()
            if lock is None:
                if time.monotonic() - self.began > LOCK_SECONDS:
                    self.outcome = "returned"
                    log.warning("trial %s is held up by a run of its own", self.leased.trial_id)
                return False
            try:
                self.place.prepare()
                self.began = time.monotonic()
                self.process = self._launch(lock)
            finally:
                os.close(lock)  # the supervisor has it as well
        except (OSError, ValueError) as error:
            self.fail(f"cannot be started: {error}")
            return False
        return True

    def _launch(self, lock: int) -> subprocess.Popen[bytes]:
        leased, script = self.leased, self.script
        socket, file = self.folder / "socket", self.folder / "trial.json"
        self.channel = Channel(socket)
        told = {
            "params": leased.config,
            "seed": leased.seed,
            "number": leased.number,
            "study": leased.study_id,
            "attempt": leased.attempt,
            "start": leased.start if self.place.checkpoint(leased.start) else 0,
            "max_step": leased.max_step,
            "metrics": leased.metrics,
            "checkpoint_dir": str(self.place.own),
            "socket": str(socket),
        }
        file.write_text(json.dumps(told), encoding="utf-8")
        watched = {
            "command": script.command,
            "directory": str(script.directory),
            "folder": str(self.folder),
            "segment": self.output.segment,
            "tail": self.output.tail,
            "grace_seconds": script.grace_seconds,
            "time_limit_seconds": script.time_limit_seconds,
            "worker": os.getpid(),
        }
        environment = {
            **script.variables(),
            **{trial.variable(name): _word(value) for name, value in leased.config.items()},
            trial.PARAMETERS: json.dumps(leased.config),
            trial.FILE: str(file),
            "CUDA_VISIBLE_DEVICES": self.devices,
        }
        return subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, json.dumps(watched)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,
        )

    def _end(self) -> None:
        """What became of a script that has ended."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        self.checkpoint = self.place.checkpoint(self.step) or self.checkpoint
        if self.outcome or self.over or self.leaving:
            return
        try:
            ended = json.loads((self.folder / supervisor.ENDED).read_text())
        except (OSError, ValueError):
            ended = {"error": "its supervisor was killed, or could not write how it ended"}
        if ended.get("error"):
            self.fail(ended["error"])
        elif ended["late"]:
            self.fail(f"the time limit of {self.script.time_limit_seconds:g} s is over")
        elif ended["code"] == 0:
            self.outcome = "complete"
        else:
            self.fail(": ".join(filter(None, [_exit(ended["code"]), self.output.last_line()])))

    def printed(self) -> list[Printed]:
        """What it has printed and nobody was sent."""
        return [
            Printed(
                trial_id=self.leased.trial_id,
                token=self.leased.token,
                start=piece.start,
                size=piece.size,
                text=piece.text,
                keep=self.script.log_bytes,
            )
            for piece in self.output.news(final=self.gone)
        ]

    def clear(self, *, forget: bool) -> None:
        """Removes its files; ``forget`` also those that another run would go on from."""
        if self.channel is not None:
            self.channel.close()
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if forget:
            self.place.forget()


def _word(value: object) -> str:
    """A parameter as an environment variable holds it: text as it is, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
