"""Watches over one run of a script: its output, its time, its end, and the end of all it started.

A process of its own, run as a file by ``python -I``, so that a script that prints without end costs
the worker nothing, and so that nothing of the script outlives a worker that was killed: this
process holds a pipe to the worker, and ends the script when the pipe closes. A worker closes it to
stop a run as well.

Stopping is SIGTERM to the script's process group, then SIGKILL to everything that descends from it.
On Linux that includes what left the group: orphans come to this process, which asks for them.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 16
LOOK_SECONDS = 0.1
PR_SET_CHILD_SUBREAPER = 36
ENDED = "ended.json"
"""Written last: how the script ended."""


class Log:
    """What was printed, in files of one size, of which the first and the last few are kept.

    File ``i`` holds the bytes from ``i * segment`` on.

    Args:
        folder: Where the files lie.
        segment: Bytes of a file.
        tail: Full files kept at the end, beside the one being written.
    """

    def __init__(self, folder: Path, segment: int, tail: int) -> None:
        self.folder = folder
        self.segment = segment
        self.tail = tail
        self.size = 0
        self._file: IO[bytes] | None = None
        self._lost = ""

    def write(self, data: bytes) -> None:
        """Adds to it; what a full disk does not take is lost, and that is noted when it does."""
        try:
            if self._lost:
                self._add(f"\n[output was lost: {self._lost}]\n".encode())
                self._lost = ""
            self._add(data)
        except OSError as error:
            self._lost = error.strerror or str(error)

    def close(self) -> None:
        """Ends it."""
        if self._file is not None:
            self._file.close()

    def _add(self, data: bytes) -> None:
        while data:
            index, used = divmod(self.size, self.segment)
            if self._file is None or used == 0:
                self._next(index)
            assert self._file is not None
            written = self._file.write(data[: self.segment - used])
            data = data[written:]
            self.size += written

    def _next(self, index: int) -> None:
        self.close()
        self._file = (self.folder / f"log.{index}").open("wb", buffering=0)
        old = index - self.tail - 1
        if old > 0:
            (self.folder / f"log.{old}").unlink(missing_ok=True)


class Supervisor:
    """One run, from its start until nothing of it is left.

    Args:
        told: ``command``, ``directory``, ``folder`` (for the log and the outcome), ``segment`` and
            ``tail`` (see :class:`Log`), ``grace_seconds``, and ``time_limit_seconds`` or null.
        control: Says nothing; when it ends the script is stopped.
    """

    def __init__(self, told: dict[str, Any], control: IO[bytes]) -> None:
        self.told = told
        self.control = control
        self.grace: float = told["grace_seconds"]
        self.log = Log(Path(told["folder"]), told["segment"], told["tail"])
        self.main = 0
        """The script's process, and its group."""
        self.code: int | None = None
        """The script's exit code, once it has ended; a signal's number is negative."""
        self.asked = False
        """Whether somebody wants it to stop."""
        self.late = False
        """Whether it ran out of time."""
        self.kill_at: float | None = None
        self.killed = False

    def run(self) -> dict[str, Any]:
        """Runs the script; how it ended."""
        self.log.write(f"$ {shlex.join(self.told['command'])}\n".encode())
        try:
            process = subprocess.Popen(
                self.told["command"],
                cwd=self.told["directory"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            reason = f"cannot be started: {error.strerror or error}"
            self.log.write(f"{reason}\n".encode())
            return {"error": reason}
        self.main = process.pid
        assert process.stdout is not None
        try:
            with process.stdout as output, selectors.DefaultSelector() as selector:
                os.set_blocking(output.fileno(), False)
                selector.register(output, selectors.EVENT_READ)
                selector.register(self.control, selectors.EVENT_READ)
                self._watch(output, selector)
        finally:
            while not self._reap():  # something is left only where the watch itself has failed
                self._signal(signal.SIGKILL)
                time.sleep(LOOK_SECONDS)
        process.returncode = self.code  # it was waited for here
        self.log.close()
        return {"code": self.code, "late": self.late}

    def _watch(self, output: IO[bytes], selector: selectors.BaseSelector) -> None:
        limit = self.told["time_limit_seconds"]
        deadline = math.inf if limit is None else time.monotonic() + limit
        while not self._reap():
            for key, _ in selector.select(LOOK_SECONDS):
                if key.fileobj is not output:
                    self.asked = True
                    selector.unregister(self.control)
                elif not self._copy(output):
                    selector.unregister(output)
            now = time.monotonic()
            if now >= deadline and self.code is None and not self.asked:
                self.late = self.asked = True
                self.log.write(f"\n[the time limit of {limit:g} s is over]\n".encode())
            # A script that has ended may have left something behind.
            if (self.asked or self.code is not None) and self.kill_at is None:
                self.kill_at = now + self.grace
                self._signal(signal.SIGTERM)
            if self.kill_at is not None and now >= self.kill_at:
                self._kill()
        with suppress(BlockingIOError):  # outside Linux somebody unseen may still hold the pipe
            while self._copy(output):
                pass

    def _copy(self, output: IO[bytes]) -> bool:
        """Takes in what was printed; whether there may be more."""
        data = os.read(output.fileno(), CHUNK)
        self.log.write(data)
        return bool(data)

    def _reap(self) -> bool:
        """Waits for what has ended; whether nothing is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.main:
                self.code = os.waitstatus_to_exitcode(status)

    def _kill(self) -> None:
        """Ends everything that is left; called again until nothing is."""
        if self.code is None and not self.killed:
            self.log.write(f"\n[killed: it did not end within {self.grace:g} s]\n".encode())
        self.killed = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        _send(-self.main, number)
        if self.code is not None or number == signal.SIGKILL:
            # Its group has lost its leader, and some may have left the group.
            for pid in descendants():
                _send(pid, number)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended, or is somebody else's now
        os.kill(pid, number)


def descendants() -> list[int]:
    """Every process that descends from this one, by Linux's own list; elsewhere none is found."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; the parent is the second word after it.
            words = entry.read_bytes().rpartition(b")")[2].split()
            parents.setdefault(int(words[1]), []).append(int(entry.parent.name))
        except (OSError, IndexError, ValueError):
            continue  # it has just ended
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def main() -> None:
    """Runs what the first argument, a JSON document, says."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    told = json.loads(sys.argv[1])
    supervisor = Supervisor(told, sys.stdin.buffer)

    def asked(*_: object) -> None:
        supervisor.asked = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, asked)
    ended = supervisor.run()
    part = Path(told["folder"]) / f"{ENDED}.part"
    with suppress(OSError):  # a full disk; the worker says that the outcome is not there
        part.write_text(json.dumps(ended))
        part.replace(part.with_suffix(""))
    if os.getppid() != told["worker"]:
        shutil.rmtree(told["folder"], ignore_errors=True)  # nobody is left to read it


if __name__ == "__main__":
    main()
