"""What the processes of a fault test do: servers and workers, forked from one that has all loaded.

Forking a process that has imported everything takes milliseconds instead of seconds, so that one
can be killed many times in a minute. What runs in it is what ``tuner serve`` and ``tuner worker``
run.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
import uvicorn

from api.app import create_app
from tests.tuner.tasks.zoo import MlpTask
from tuner import logs
from tuner.cli.serving import bound
from tuner.service import Context, ServiceSettings, utc_now
from tuner.settings import Settings
from tuner.transport import Transport
from tuner.worker.http import HttpGateway
from tuner.worker.loop import load_task, run_worker

TASK = MlpTask.name
"""A task so small that hundreds of its trials end in a minute; see :func:`know_task`."""


def know_task() -> None:
    """Makes the task one of this process, for as long as it lives or its test runs."""
    load_task("tests.tuner.tasks.zoo:MlpTask")


def serve(
    log: Path, port: int, url: str, home: Path, service: dict[str, Any], ahead: Synchronized[float]
) -> None:
    """A server until SIGTERM.

    Args:
        log: A file for what it prints.
        port: On the loopback interface.
        url: The database.
        home: Its folder.
        service: Its ``ServiceSettings``.
        ahead: Seconds that its clock is ahead; the test changes them.
    """
    _print_to(log)
    know_task()
    context = Context.open(
        url,
        now=lambda: utc_now() + timedelta(seconds=ahead.value),
        settings=ServiceSettings(home=home, **service),
    )
    app = create_app(context, Settings.read(home=home, database_url=url), auth=False)
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
    with bound("127.0.0.1", port) as listener:
        uvicorn.Server(config).run(sockets=[listener])
    context.close()


def work(
    log: Path, url: str, home: Path, name: str, slots: int, ahead: Synchronized[float]
) -> None:
    """A worker until SIGTERM.

    Args:
        log: A file for what it prints.
        url: The server.
        home: Its folder, with its checkpoints.
        name: What it is called.
        slots: Trials at once.
        ahead: Seconds that its wall clock is ahead; the test changes them.
    """
    _print_to(log)
    know_task()
    # A compiler of the optimizer's steps would take longer than the trials.
    os.environ["TORCH_COMPILE_DISABLE"] = "1"
    wall = time.time
    time.time = lambda: wall() + ahead.value
    torch.set_num_threads(1)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop.set).start())
    gateway = HttpGateway(Transport(url))
    run_worker(
        gateway, name=name, device="cpu", slots=slots, home=home, stop=stop, save_seconds=0.2
    )
    gateway.close()


def _print_to(log: Path) -> None:
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  (until the process ends)
    logs.configure("info")
