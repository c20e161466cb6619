"""``tuner serve`` and ``tuner worker``: the two long-running processes."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from tuner import logs
from tuner.cli.children import when_parent_ends
from tuner.cli.options import DatabaseUrl, Home, Token, Url
from tuner.cli.output import err
from tuner.cli.serving import serving
from tuner.cli.signals import stopping
from tuner.cli.task import load
from tuner.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="The address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to bind; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Local workers to start; 0 for a server alone.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask nobody for a token; on loopback only.")
    ] = False,
    behind_proxy: Annotated[
        bool | None,
        typer.Option("--behind-proxy", help="A proxy in front ends TLS; trust what it says."),
    ] = None,
    plain_http: Annotated[
        bool | None,
        typer.Option("--plain-http", help="Bind beyond loopback without TLS: the network is ours."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Another task: MODULE:CLASS; may be repeated.")
    ] = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """Starts the server, and workers on this machine unless --workers 0."""
    settings = Settings.read(
        host=host,
        port=port,
        workers=workers,
        behind_proxy=behind_proxy,
        plain_http=plain_http,
        database_url=database_url,
        home=home,
    )
    logs.configure(settings.log_level, as_json=settings.log_json)
    for path in task or []:
        load(path)
    stop = stopping()
    with serving(settings, auth=not no_auth, stop=stop, tasks=task or ()) as url:
        err.print(f"tuner is at {url}", markup=False)
        stop.wait()
        err.print("stopping", markup=False)


def worker(
    url: Url = None,
    token: Token = None,
    name: Annotated[str | None, typer.Option(help="What it is called; host and pid else.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")
    ] = "auto",
    slots: Annotated[
        int | None, typer.Option(min=1, help="Trials trained at once; measured by default.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Another task: MODULE:CLASS; may be repeated.")
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", hidden=True, help="Stop when stdin closes.")
    ] = False,
    home: Home = None,
) -> None:
    """Leases trials from a server, trains them, and reports."""
    from tuner.transport import Transport
    from tuner.worker.http import HttpGateway
    from tuner.worker.loop import run_worker

    for path in task or []:
        load(path)
    settings = Settings.read(url=url, token=token, home=home)
    logs.configure(settings.log_level, as_json=settings.log_json)
    stop = stopping()
    if exit_with_parent:
        when_parent_ends(stop)
    secret = settings.token.get_secret_value() if settings.token else None
    gateway = HttpGateway(Transport(settings.url, secret))
    try:
        run_worker(
            gateway,
            name=name or f"{socket.gethostname()}-{os.getpid()}",
            device=device,
            slots=slots,
            tasks=task or [],
            home=settings.home,
            stop=stop,
            checkpoints=settings.checkpoints or None,
            save_seconds=settings.checkpoint_seconds,
        )
    finally:
        gateway.close()
