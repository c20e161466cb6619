"""A server in this process and its workers beside it: exposed safely, stopped in order."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from tuner.cli.children import Children, grace_seconds, workers_at
from tuner.cli.collecting import sparing_what_is_loaded
from tuner.cli.machine import default_workers, gpus
from tuner.cli.output import err
from tuner.errors import Conflict, InvalidInput, Unavailable
from tuner.settings import Settings
from tuner.worker.places import Place, places

if TYPE_CHECKING:
    import uvicorn

    from tuner.service import Context
    from tuner.worker.scripts.config import Scripts

DRAIN_SECONDS = 5
"""How long open connections (dashboards that listen) may take to end at shutdown."""
END_SECONDS = 22.0
"""How long the server may take to end: its connections, and then its chores."""

logger = logging.getLogger(__name__)


@contextmanager
def serving(
    settings: Settings,
    *,
    auth: bool,
    stop: threading.Event,
    worker_log: Path | None = None,
    tasks: Sequence[str] = (),
    config: Path | None = None,
) -> Iterator[str]:
    """A running server with its workers; everything is stopped in order when the block ends.

    Workers go first, so that they can hand back what they hold.

    Args:
        settings: Where to listen, and how many workers to start.
        auth: Whether to ask for tokens.
        stop: Set when the server ends by itself, so that nobody waits for a dead one.
        worker_log: A file for what the workers log, else standard error.
        tasks: Further tasks that the workers load, as MODULE:CLASS.
        config: The workers' own file; by default that in the home folder.

    Yields:
        Its address.

    Raises:
        InvalidInput: The address may not be bound like that, or cannot be; the file is wrong.
        SchemaOutdated: An external database is of another version.
        Unavailable: The database cannot be reached, or the server did not start or ended by itself.
    """
    check_exposure(settings, auth=auth)
    if config is not None and settings.workers == 0:
        raise InvalidInput(
            "config", "is for workers, and --workers 0 starts none: tuner worker --config takes it"
        )

    import uvicorn
    from uvicorn.importer import import_from_string

    from tuner.cli.connections import PatientProtocol
    from tuner.patience import patiently
    from tuner.service import Context, ServiceSettings, offer_tasks
    from tuner.storage import migrate
    from tuner.worker.scripts.config import scripts_of

    settings.make_home()
    # A file does not come later, and who has it locked is waited for anyway.
    wait = 0.0 if settings.database_url.startswith("sqlite") else settings.wait_seconds
    patiently(lambda: migrate.prepare(settings.database_url), seconds=wait, stop=stop)
    with ExitStack() as stack:
        stack.enter_context(sparing_what_is_loaded())
        context = Context.open(
            settings.database_url,
            settings=ServiceSettings(
                lease_seconds=settings.lease_seconds,
                heartbeat_seconds=settings.heartbeat_seconds,
                max_attempts=settings.max_attempts,
                home=settings.home,
                checkpoints=settings.checkpoint_root,
                data_roots=settings.data_roots,
                webhook_hosts=settings.webhook_hosts,
            ),
        )
        stack.callback(context.close)
        listener = stack.enter_context(bound(settings.host, settings.port))
        url = f"http://{reachable(settings.host)}:{listener.getsockname()[1]}"
        scripts: Scripts = {}
        if settings.workers != 0:
            # Before anybody can ask for one, since the workers take a while to start.
            scripts = scripts_of(config, settings.home)
            offer_tasks(context, [script.form(name) for name, script in scripts.items()])
        http = uvicorn.Config(
            import_from_string(settings.app)(context, settings, auth=auth),
            http=PatientProtocol,
            log_config=None,
            access_log=settings.log_level == "debug",
            proxy_headers=False,  # the application reads them itself, and only the proxy's own
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        stack.enter_context(running(uvicorn.Server(http), listener, stop))
        if auth:
            greet(context, url)
        if settings.workers != 0:
            workers = local_workers(
                context,
                settings,
                url,
                auth=auth,
                log=worker_log,
                tasks=tasks,
                config=config,
                grace_seconds=grace_seconds(scripts),
            )
            stack.enter_context(workers)
        yield url


@contextmanager
def running(
    server: uvicorn.Server, listener: socket.socket, stop: threading.Event
) -> Iterator[None]:
    """The server in a thread of its own, so that this one decides when, and in what order, to end.

    What hangs is left behind. Its threads are daemons, as are those that this one starts, so they
    keep no process alive.

    Raises:
        Unavailable: It did not start, or ended by itself.
    """
    ended = threading.Event()

    def run() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            ended.set()
            stop.set()

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise Unavailable("the server did not start; the log says why")
            thread.join(0.02)
        yield
        if ended.is_set():
            raise Unavailable("the server ended by itself; the log says why")
    finally:
        server.should_exit = True
        thread.join(END_SECONDS)
        if thread.is_alive():
            logger.warning("the server did not end in time and is left behind")


def check_exposure(settings: Settings, *, auth: bool) -> None:
    """Refuses to show the server to a network that could read its tokens, or needs none.

    Raises:
        InvalidInput: Others reach the server, and auth is off or nothing ends TLS.
    """
    if settings.behind_proxy and not auth:
        raise InvalidInput(
            "no_auth", "a proxy would show the server to others, and they could do everything"
        )
    if settings.loopback:
        return
    if not auth:
        raise InvalidInput(
            "no_auth", f"whoever reaches {settings.host} could do everything; only for 127.0.0.1"
        )
    if not (settings.behind_proxy or settings.plain_http):
        raise InvalidInput(
            "host",
            f"on {settings.host} tokens would cross the network unencrypted; put a proxy that ends "
            "TLS in front and say --behind-proxy, or accept it with --plain-http",
        )


def bound(host: str, port: int) -> socket.socket:
    """A listening socket, made before anything else starts, so that a taken port is said at once.

    Raises:
        InvalidInput: The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput("port", f"{host}:{port} cannot be bound: {reason}") from error
    listener.listen(2048)
    return listener


def reachable(host: str) -> str:
    """The host part of an address at which this machine reaches what is bound to ``host``."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def greet(context: Context, url: str) -> None:
    """At the first start, makes the admin's token and shows it, this once."""
    from tuner.service import tokens

    if any("admin" in token.scopes for token in tokens.list_tokens(context)):
        return
    try:
        made = tokens.create_token(context, "admin", ["admin"], actor="first start")
    except Conflict:
        # Another server starts at the same time, or the name is in use for something else.
        err.print("to make an admin's token: tuner token create --name NAME --scope admin")
        return
    err.print(
        f"\nThis is the first start. The admin's token, shown only now:\n\n    {made.secret}\n\n"
        f"    export TUNER_TOKEN={made.secret}\n    {url}/login\n",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def local_workers(
    context: Context,
    settings: Settings,
    url: str,
    *,
    auth: bool,
    log: Path | None,
    tasks: Sequence[str],
    config: Path | None,
    grace_seconds: float,
) -> Iterator[Children]:
    """The local workers, with a token of their own that lives as long as they do.

    Args:
        context: The service.
        settings: How many, and what they are told as variables.
        url: The server.
        auth: Whether they need a token.
        log: A file for what they log, else standard error.
        tasks: Other tasks that they load.
        config: The file of the scripts that they may run, if not that of the home.
        grace_seconds: How long they may take to end.
    """
    from tuner.service import tokens

    told: dict[str, Any] = {"url": url}
    made = None
    if auth:
        name = f"local workers of {socket.gethostname()} {url.rpartition(':')[2]}"
        made = tokens.create_token(context, name, ["work"], actor="serve", replace=True)
        told["token"] = SecretStr(made.secret)
    count, found = settings.workers or default_workers(), gpus()
    children = workers_at(
        # Where no GPU is found the workers look themselves.
        places(count, found) if found else [Place("auto", count)] * count,
        settings.model_copy(update=told),
        name=socket.gethostname(),
        tasks=tasks,
        config=config,
        log=log,
    )
    try:
        yield children
    finally:
        children.stop(grace_seconds)
        if made is not None:
            tokens.revoke_token(context, made.id, actor="serve")
