"""``tuner serve``: the server, with workers beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from tuner import logs
from tuner.cli.options import Config, DatabaseUrl, Home
from tuner.cli.output import err
from tuner.cli.serving import serving
from tuner.cli.signals import stopping
from tuner.cli.task import load
from tuner.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="The address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to bind; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Local workers to start; by default one a GPU, or one a core up to 8. 0 for a "
            "server alone."
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Require no token; on loopback only.")
    ] = False,
    behind_proxy: Annotated[
        bool | None,
        typer.Option("--behind-proxy", help="A proxy in front ends TLS; trust what it says."),
    ] = None,
    plain_http: Annotated[
        bool | None,
        typer.Option(
            "--plain-http", help="Bind beyond loopback without TLS, in a network you trust."
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Another task: MODULE:CLASS; may be repeated.")
    ] = None,
    config: Config = None,
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
    with serving(settings, auth=not no_auth, stop=stop, tasks=task or (), config=config) as url:
        err.print(f"tuner is at {url}", markup=False)
        stop.wait()
        err.print("stopping", markup=False)
