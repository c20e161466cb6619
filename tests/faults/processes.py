"""Servers and workers as processes of their own, started, frozen and killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx

from tests.faults import children
from tests.installation import PATIENCE_SECONDS, steady_port, until

SERVICE: dict[str, Any] = {"lease_seconds": 3.0, "heartbeat_seconds": 0.5, "max_attempts": 10_000}
"""Short leases, so that much can expire in a minute; attempts without end, so that nothing fails
because it was hit often."""

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([children.__name__])


class Process:
    """One process, and its clock.

    Args:
        target: What it does; its first argument is the log's file, its last one the clock.
        log: A file for what it prints.
        arguments: Those between.
    """

    def __init__(self, target: Callable[..., None], log: Path, *arguments: Any) -> None:
        self.log = log
        self.ahead = _forks.Value("d", 0.0)
        self._target = target
        self._arguments = arguments
        self._process = self._started()

    def _started(self) -> BaseProcess:
        # daemon: it ends with the tests, whatever becomes of them.
        process = _forks.Process(
            target=self._target, args=(self.log, *self._arguments, self.ahead), daemon=True
        )
        process.start()
        return process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """Ends it at once, in the middle of whatever it does."""
        self._process.kill()
        self._process.join()

    def terminate(self) -> int | None:
        """Asks it to end; its exit code."""
        self._process.terminate()
        self._process.join(PATIENCE_SECONDS)
        return self._process.exitcode

    def freeze(self, seconds: float) -> None:
        """Stops it for a while; it does not know."""
        os.kill(self.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Starts it again after its end."""
        self._process = self._started()

    def close(self) -> None:
        """Ends it if it is still there."""
        if self.alive:
            os.kill(self.pid, signal.SIGCONT)
            self.kill()
        self._process.close()


class Server(Process):
    """A server on a port of its own, which stays the same when it is started again."""

    def __init__(self, folder: Path, database_url: str, number: int = 0, **settings: float) -> None:
        self.port = steady_port()
        self.url = f"http://127.0.0.1:{self.port}"
        log = folder / f"server-{number}.log"
        super().__init__(
            children.serve, log, self.port, database_url, folder, {**SERVICE, **settings}
        )
        self.wait()

    def restart(self) -> None:
        """Starts it again after its end, and waits until it answers."""
        super().restart()
        self.wait()

    def wait(self) -> None:
        """Waits until it answers."""
        until(self._answers, "the server to answer")

    def _answers(self) -> bool:
        try:
            # Without reading whom to trust, which would take longer than the answer.
            answer = httpx.get(f"{self.url}/healthz", trust_env=False, verify=False)
            return answer.status_code == 200
        except httpx.TransportError:
            return False


class Worker(Process):
    """A worker that trains for real."""

    def __init__(self, folder: Path, url: str, number: int = 0, slots: int = 2) -> None:
        log = folder / f"worker-{number}.log"
        super().__init__(children.work, log, url, folder, f"worker-{number}", slots)
