"""``tuner workers``: who trains, and how many of those that Ray places there should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.options import Json, Token, Url
from tuner.cli.output import print_json, print_table, say
from tuner.cli.studies import connected
from tuner.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from tuner.client import Client
    from tuner.service import WorkerView
    from tuner.service.pools import PoolView

app = typer.Typer(help="List, drain and scale workers.", invoke_without_command=True)


@app.callback()
def list_(context: typer.Context, url: Url = None, token: Token = None, json: Json = False) -> None:
    """Lists workers that are present, and pools of those that Ray places."""
    if context.invoked_subcommand is not None:
        return
    with connected(url, token) as client:
        workers = [worker for worker in client.workers() if worker.state != "gone"]
        pools = [pool for pool in client.pools() if pool.present]
    if json:
        print_json({"workers": workers, "pools": pools})
        return
    columns = ("id", "name", "state", "device", "trials", "samples/s", "last heard of")
    print_table(columns, [_row(worker) for worker in workers])
    if pools:
        rows = [[p.name, p.running, _number(p.wanted), p.fits] for p in pools]
        print_table(("pool", "workers", "wanted", "room for"), rows)


@app.command()
def drain(
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Its id, or its name.")],
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Lets a worker finish what it holds, and gives it no more.

    Ray replaces a worker that it has placed; to have fewer of them, scale.
    """
    with connected(url, token) as client:
        found = client.drain_worker(_worker(client, worker).id)
    if json:
        print_json(found)
    else:
        say(f"worker {found.id} ({found.name}) is {found.state}, it holds {found.held} trials")


@app.command()
def scale(
    wanted: Annotated[
        str, typer.Argument(metavar="N", help="How many; `auto`: as many as the cluster fits.")
    ],
    pool: Annotated[
        str | None, typer.Option(help="Which pool; needed if there are several.")
    ] = None,
    url: Url = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Sets how many workers Ray keeps (see `tuner worker --engine ray`).

    Surplus workers save what they train and hand it back. The server remembers the number.
    """
    if wanted != "auto" and not (wanted.isascii() and wanted.isdecimal()):
        raise InvalidInput("N", f"{wanted!r} is neither a number nor auto")
    number = None if wanted == "auto" else int(wanted)
    with connected(url, token) as client:
        found = client.scale_pool(_pool(client, pool).id, number)
    if json:
        print_json(found)
    else:
        say(f"pool {found.name} has {found.running} workers and should have {_number(number)}")


def _worker(client: Client, key: str) -> WorkerView:
    """The worker of that id, or the one of that name that was heard of last."""
    for worker in client.workers():
        if key in (str(worker.id), worker.name):
            return worker
    raise NotFound("worker", key)


def _pool(client: Client, name: str | None) -> PoolView:
    """The pool of that name; without one, the only pool that is present."""
    pools = client.pools()
    if name is not None:
        for pool in pools:
            if pool.name == name:
                return pool
        raise NotFound("pool", name)
    present = [pool for pool in pools if pool.present]
    if not present:
        raise NotFound("pool", "that is present; start one with `tuner worker --engine ray`")
    if len(present) > 1:
        names = ", ".join(pool.name for pool in present)
        raise InvalidInput("pool", f"there are several, name one of {names}")
    return present[0]


def _number(wanted: int | None) -> int | str:
    return "as many as fit" if wanted is None else wanted


def _row(worker: WorkerView) -> list[object]:
    device = f"{worker.device.get('kind', '')} {worker.device.get('name', '')}".strip()
    rate = worker.status.get("samples_per_second")
    trials = f"{worker.held} of {worker.slots}"
    return [worker.id, worker.name, worker.state, device, trials, rate, worker.heartbeat_at]
