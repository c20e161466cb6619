"""``tuner worker``: a process that trains, or one that keeps such processes here or on Ray."""

from __future__ import annotations

import os
import socket
import threading
from enum import StrEnum
from typing import Annotated, Any

import typer

from tuner import logs
from tuner.cli.children import REFUSED, Children, grace_seconds, when_parent_ends, workers_at
from tuner.cli.machine import places_of_worker
from tuner.cli.options import Checkpoints, Config, Home, Token, Url
from tuner.cli.signals import stopping
from tuner.cli.task import load
from tuner.errors import Forbidden, InvalidInput, TunerError, Unauthorized
from tuner.settings import Settings


class Engine(StrEnum):
    """Where a worker trains."""

    local = "local"
    ray = "ray"


def worker(
    url: Url = None,
    token: Token = None,
    name: Annotated[
        str | None, typer.Option(help="Its name; by default host and pid, with ray `ray`.")
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            help="local trains on this machine; ray keeps a worker for each GPU, or for some CPUs, "
            "of a Ray cluster."
        ),
    ] = Engine.local,
    address: Annotated[
        str | None,
        typer.Option(
            help="With ray: auto or HOST:PORT of a cluster; by default this machine alone."
        ),
    ] = None,
    cpus_per_worker: Annotated[
        int | None, typer.Option(min=1, help="With ray: CPUs of each worker; one by default.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda, cuda:1, ...; auto takes every GPU there is, a process on each."
        ),
    ] = "auto",
    sharing: Annotated[
        int,
        typer.Option(
            min=1,
            help="Workers on each GPU; with a named device, how many in all are told to share it.",
        ),
    ] = 1,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Trials trained at once; measured by default.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Another task: MODULE:CLASS; may be repeated.")
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", hidden=True, help="Stop when stdin closes.")
    ] = False,
    config: Config = None,
    checkpoints: Checkpoints = None,
    home: Home = None,
) -> None:
    """Leases trials from a server, trains them, and reports."""
    from tuner.worker.scripts.config import scripts_of

    for path in task or []:
        load(path)
    settings = Settings.read(url=url, token=token, home=home, checkpoints=checkpoints)
    scripts = scripts_of(config, settings.home)
    logs.configure(settings.log_level, as_json=settings.log_json)
    settings.make_home()
    if engine is Engine.ray:
        options = {"slots": slots, "tasks": task or [], "scripts": dict(scripts)}
        options |= {"cpus": cpus_per_worker or 1, "sharing": sharing}
        _on_ray(settings, name or "ray", address, device, options)
        return
    for option, given in (("address", address), ("cpus_per_worker", cpus_per_worker)):
        if given is not None:
            raise InvalidInput(option, "is of use with --engine ray only")
    name = name or f"{socket.gethostname()}-{os.getpid()}"
    # Whoever starts a child has placed it.
    places = [] if exit_with_parent else places_of_worker(device, sharing)
    stop = stopping()
    if len(places) > 1:
        children = workers_at(
            places, settings, name=name, tasks=task or [], config=config, slots=slots
        )
        wait_for(children, stop, grace_seconds(scripts))
        return
    from tuner.transport import Transport
    from tuner.worker.http import HttpGateway
    from tuner.worker.loop import run_worker

    if exit_with_parent:
        when_parent_ends(stop)
    gateway = HttpGateway(Transport(settings.url, settings.secret))
    try:
        run_worker(
            gateway,
            name=name,
            device=device,
            sharing=sharing,
            slots=slots,
            tasks=task or [],
            home=settings.home,
            checkpoints=settings.checkpoints,
            stop=stop,
            scripts=scripts,
            save_seconds=settings.checkpoint_seconds,
            wait_seconds=settings.wait_seconds,
        )
    except (Unauthorized, Forbidden):
        if exit_with_parent:
            raise typer.Exit(REFUSED) from None
        raise
    finally:
        gateway.close()


def wait_for(children: Children, stop: threading.Event, grace: float) -> None:
    """Keeps the workers until this process is told to end, or all of them have ended.

    Raises:
        TunerError: All have ended, and not all as they were told to.
        typer.Exit: The server refuses their token, as the log says already.
    """
    try:
        while not (children.ended or children.refused or stop.wait(0.2)):
            pass
    finally:
        children.stop(grace)
    if children.refused:
        raise typer.Exit(1)
    if children.failed and not stop.is_set():
        raise TunerError("all workers have ended; the log says why")


def _on_ray(
    settings: Settings,
    name: str,
    address: str | None,
    device: str,
    options: dict[str, Any],
) -> None:
    from tuner.transport import Transport
    from tuner.worker.ray import Plan, Pool, cluster, kind_of

    # The driver asks again by itself, and must hear a signal meanwhile.
    transport = Transport(settings.url, settings.secret, timeout_seconds=10, attempts=2)
    try:
        with cluster(address) as ray:
            plan = Plan(
                name=name,
                url=settings.url,
                token=settings.secret,
                kind=kind_of(ray, device),
                **options,
                home=settings.home.absolute(),
                checkpoints=settings.checkpoints,
                save_seconds=settings.checkpoint_seconds,
                wait_seconds=settings.wait_seconds,
                log_level=settings.log_level,
                log_json=settings.log_json,
            )
            # Not before: Ray has put a handler of its own on SIGTERM.
            Pool(ray, transport, plan, stopping()).run()
    finally:
        transport.close()
