"""The gateway without a network: each call is one use case of the service in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

from tuner import service
from tuner.protocol import (
    Heartbeat,
    HeartbeatAnswer,
    LeaseAnswer,
    LeaseRequest,
    Registration,
    Report,
    ReportAnswer,
    WorkerHello,
)
from tuner.service import Context, datasets


class DirectGateway:
    """A ``tuner.protocol.Gateway`` over a service context; threads may share it."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def register(self, hello: WorkerHello) -> Registration:
        """Introduces the worker."""
        return service.register_worker(self._context, hello)

    def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
        """Takes up to ``request.k`` trials."""
        return service.lease(self._context, worker_id, request)

    def report(self, worker_id: int, report: Report) -> ReportAnswer:
        """Delivers a round's news."""
        return service.report(self._context, worker_id, report)

    def heartbeat(self, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
        """Renews leases."""
        return service.heartbeat(self._context, worker_id, beat)

    def leave(self, worker_id: int) -> None:
        """Says goodbye."""
        service.leave(self._context, worker_id)

    def fetch(self, sha256: str, target: Path) -> None:
        """Copies an uploaded dataset."""
        shutil.copyfile(datasets.dataset_file(self._context, sha256), target)
