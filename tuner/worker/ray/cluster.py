"""The connection to a Ray cluster, and what the cluster has."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tuner.errors import InvalidInput, Unavailable
from tuner.worker.ray.actor import Kind


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Ray's own module, connected to a cluster until the block ends.

    Ray puts a handler of its own on SIGTERM; whoever wants another sets it inside the block.

    Args:
        address: ``auto`` or HOST:PORT of a cluster; None: one of this machine alone, which lives as
            long as the block.

    Raises:
        InvalidInput: Ray is not installed.
        Unavailable: There is no such cluster.
    """
    if address is not None:
        _listening(address)
    # Whoever starts a cluster decides whether it tells Ray's makers of its use; ours does not.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415  (an extra, and slow to load)
    except ImportError as error:
        raise InvalidInput("engine", "Ray is not installed: pip install ray") from error
    # Options of a cluster to start are refused by one to join.
    mine: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", logging_level=logging.WARNING, **mine)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise Unavailable(f"no Ray cluster at {address or 'this machine'}: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _listening(address: str) -> None:
    """Asks whether somebody listens at HOST:PORT, since Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # auto, or another word that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise Unavailable(f"no Ray cluster at {address}: {error}") from error


def kind_of(ray: Any, device: str) -> Kind:
    """What the actors are to train on; ``auto`` takes GPUs where the cluster has some.

    Args:
        ray: Ray's module, connected.
        device: auto, cpu or cuda; which GPU, Ray decides.

    Raises:
        InvalidInput: It is none of these.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InvalidInput("device", f"{device!r}: on a cluster it is auto, cpu or cuda")
    if device == "auto":
        return "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"
    return "cuda" if device == "cuda" else "cpu"
