"""Commands of a user as real processes: a server and workers, started, killed and counted."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

PATIENCE_SECONDS = 600
"""Far more than anything takes, also where six processes share one slow core."""


_asked = itertools.count()


def steady_port() -> int:
    """A port of the loopback interface for a server that is yet to start, or to come back.

    Below those that systems give to whoever asks for any, so that nobody gets it meanwhile.
    """
    while True:
        port = 10_000 + (64 * os.getpid() + next(_asked)) % 22_000
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Installation:
    """One home folder and one address, and the processes that were started for them."""

    def __init__(self, home: Path, database_url: str | None = None) -> None:
        self.home = home
        self.http = httpx.Client(timeout=30)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "TUNER_HOME": str(home),
            "TUNER_LEASE_SECONDS": "6",
            "TUNER_HEARTBEAT_SECONDS": "1",
            "OMP_NUM_THREADS": "1",
        }
        if database_url:
            self.environment["TUNER_DATABASE_URL"] = database_url

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Runs one ``tuner`` command; what it prints goes to a file in the home folder."""
        with self.log(len(self.processes)).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tuner", *arguments],
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def log(self, number: int) -> Path:
        """What a process has printed."""
        return self.home / f"process-{number}.log"

    def serve(self, workers: int = 0) -> subprocess.Popen[bytes]:
        """A server, once it answers; from then on it is the one that all here is about."""
        log = self.log(len(self.processes))
        process = self.start("serve", "--port", "0", "--workers", str(workers), "--no-auth")

        def said() -> list[str]:
            assert process.poll() is None, log.read_text()
            return re.findall(r"tuner is at (\S+)\n", log.read_text())

        (url,) = until(said, "the server to say where it is")
        self.environment["TUNER_URL"] = url
        self.http.base_url = f"{url}/api/v1/"
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        """A worker process."""
        return self.start("worker", "--device", "cpu", "--slots", "4")

    def submit(self, **changes: Any) -> int:
        """Posts a study of digits; its id."""
        body = {
            "name": "digits",
            "task": {"name": "digits"},
            "objective": {"metric": "val_loss", "direction": "minimize"},
            "space": {
                "optimizer": "adamw",
                "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
                "batch_size": {"type": "categorical", "choices": [16, 32]},
            },
            "sampler": {"name": "random", "seed": 0},
            "pruner": {"name": "none"},
            "budget": {"trials": 10, "epochs": 12},
            **changes,
        }
        answer = self.http.post("studies", json=body)
        assert answer.status_code == 201, answer.text
        study: int = answer.json()["id"]
        return study

    def study(self, study: int) -> dict[str, Any]:
        """The study now."""
        answer = self.http.get(f"studies/{study}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def trials(self, study: int) -> list[dict[str, Any]]:
        """All its trials."""
        answer = self.http.get(f"studies/{study}/trials", params={"limit": 500})
        answer.raise_for_status()
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def steps(self, trial: int) -> list[int]:
        """The steps measured of a trial, as stored."""
        answer = self.http.get(f"trials/{trial}/measurements")
        answer.raise_for_status()
        return [point["step"] for point in answer.json()]

    def close(self) -> None:
        """Ends every process that is still there."""
        self.http.close()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def until(
    condition: Callable[[], Any],
    what: str,
    seconds: float = PATIENCE_SECONDS,
    pause_seconds: float = 0.05,
) -> Any:
    """Waits until ``condition``, asked after each pause, gives something true; gives it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(pause_seconds)
    raise AssertionError(f"waited {seconds} s for {what}")


@contextmanager
def installation(home: Path, database_url: str | None = None) -> Iterator[Installation]:
    """An installation whose processes end with the block."""
    here = Installation(home, database_url)
    try:
        yield here
    finally:
        here.close()
