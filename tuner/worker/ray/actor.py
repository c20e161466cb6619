"""What runs on the cluster: a worker in an actor, and what it is told."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from tuner import logs
from tuner.transport import Transport
from tuner.worker.crew import SAVE_SECONDS
from tuner.worker.http import HttpGateway
from tuner.worker.loop import run_worker
from tuner.worker.scripts.config import Scripts

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Plan:
    """What each actor is told.

    Args:
        name: The pool's.
        url: The server, as the cluster's nodes reach it.
        token: What they show to it.
        kind: What they train on.
        cpus: Cores of each.
        sharing: Actors on each GPU.
        slots: Trials at once in each; None: as many as pay.
        tasks: Further tasks, as ``package.module:Class``, that every node can import.
        scripts: Programs that they may run, by name; every node has them in the same place.
        home: Where checkpoints go; on storage that all nodes share, any of them resumes any trial.
        checkpoints: Where they go instead: an address that all nodes reach.
        save_seconds: How often each trial is saved.
        wait_seconds: How long they, and the driver, wait for the server at first.
        log_level: The least severe line that they log.
        log_json: Whether they log one JSON object a line.
    """

    name: str
    url: str
    token: str | None
    kind: Kind
    cpus: int = 1
    sharing: int = 1
    slots: int | None = None
    tasks: Sequence[str] = ()
    scripts: Scripts = field(default_factory=dict)
    home: Path = Path(".tuner")
    checkpoints: str | None = None
    save_seconds: float = SAVE_SECONDS
    wait_seconds: float = 0.0
    log_level: str = "info"
    log_json: bool = False

    @property
    def resources(self) -> dict[str, float]:
        """What Ray is to set aside for one actor."""
        return {"num_cpus": self.cpus, "num_gpus": 1 / self.sharing if self.kind == "cuda" else 0}

    def fits(self, nodes: Sequence[Mapping[str, Any]]) -> int:
        """How many actors the living nodes have room for, others' use of them aside.

        Args:
            nodes: As ``ray.nodes()`` lists them.
        """
        found = 0
        for node in nodes:
            if node["Alive"]:
                has = node["Resources"]
                cpus = int(has.get("CPU", 0)) // self.cpus
                gpus = int(has.get("GPU", 0)) * self.sharing
                found += cpus if self.kind == "cpu" else min(cpus, gpus)
        return found


class Actor:
    """One worker, in a process of its own somewhere on the cluster.

    Where the process dies, Ray makes the actor anew and calls :meth:`work` again.
    """

    def __init__(self, plan: Plan) -> None:
        logs.configure(plan.log_level, as_json=plan.log_json)
        self._plan = plan
        self._stop = threading.Event()
        self._sharing = plan.sharing
        if plan.kind == "cpu":
            torch.set_num_threads(plan.cpus)
            # Others like this one share the machine; each by itself would plan on most of it.
            self._sharing = max(1, (os.cpu_count() or 1) // plan.cpus)

    def work(self) -> None:
        """Works until it is told to stop, or the service drains it."""
        plan = self._plan
        gateway = HttpGateway(Transport(plan.url, plan.token))
        try:
            run_worker(
                gateway,
                name=f"{plan.name}-{socket.gethostname()}-{os.getpid()}",
                device=plan.kind,
                slots=plan.slots,
                tasks=plan.tasks,
                home=plan.home,
                checkpoints=plan.checkpoints,
                stop=self._stop,
                sharing=self._sharing,
                scripts=plan.scripts,
                save_seconds=plan.save_seconds,
                wait_seconds=plan.wait_seconds,
            )
        finally:
            gateway.close()

    def hear(self, stop: bool) -> str:
        """A sign of life: the node that it is on. ``stop`` ends the work."""
        import ray  # noqa: PLC0415  (an extra, which is there where this runs)

        if stop:
            self._stop.set()
        node: str = ray.get_runtime_context().get_node_id()
        return node
