"""The server under load: 200 workers that report each second, 20 dashboards that listen.

``tuner serve`` as it is, with tokens, in a process of its own, on studies that hold most of their
trials already. Beside it, in the same run and under the same load, the least that such a service
could do (``benchmarks/bare.py``). Latencies count from when a request was due, so that a server
that falls behind shows it; processor time, which other programs' load changes less, is that of
the server and of PostgreSQL together, divided by the requests.

    python -m benchmarks.service --minutes 10
    python -m benchmarks.service --minutes 1 --workers 50 --studies 10 --databases sqlite
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks.filled import filled, settle
from benchmarks.load import Heard, Load, generate
from tuner.cli.serving import bound
from tuner.service import Context, tokens
from tuner.storage import migrate

STEPS = 10
"""Evaluations of a trial: with one a second, a worker asks for another trial every ten seconds."""


@dataclass(frozen=True)
class Options:
    """The size of it all."""

    workers: int = 200
    slots: int = 1
    dashboards: int = 20
    studies: int = 100
    trials: int = 1000
    sampler: str = "tpe"
    minutes: float = 1.0
    bare_seconds: float = 20.0
    warm_up_seconds: float = 60.0
    """A server that starts reads the searches of all studies first."""
    period_seconds: float = 1.0
    generators: int = 1

    @property
    def free(self) -> int:
        """Trials of each study that are left to run: enough for twice the time."""
        seconds = 60 * self.minutes + self.warm_up_seconds
        ended = self.workers * self.slots * (seconds / self.period_seconds / STEPS + 1)
        return min(self.trials, int(2 * ended / self.studies) + 2)


@dataclass
class Figures:
    """What was measured of one server.

    Attributes:
        name: What it is.
        heard: What the generators heard.
        seconds: How long they counted.
        cpu_seconds: Processor time of server and database meanwhile.
        memory: Resident MB of the server over the time.
    """

    name: str
    heard: list[Heard]
    seconds: float
    cpu_seconds: float
    memory: list[float] = field(default_factory=list)

    def latencies(self, kind: str) -> np.ndarray:
        """Milliseconds of one kind of request, of all generators."""
        return 1e3 * np.array([s for heard in self.heard for s in heard.latencies.get(kind, ())])

    @property
    def kinds(self) -> list[str]:
        """The kinds of request, the most frequent first."""
        known = {kind for heard in self.heard for kind in heard.latencies}
        return sorted(known, key=lambda kind: -len(self.latencies(kind)))

    @property
    def requests(self) -> int:
        """All that were counted."""
        return sum(len(self.latencies(kind)) for kind in self.kinds)

    @property
    def refused(self) -> dict[str, int]:
        """Answers other than good ones."""
        found: dict[str, int] = {}
        for heard in self.heard:
            for kind, n in heard.refused.items():
                found[kind] = found.get(kind, 0) + n
        return found


def measure(
    kind: str, url: str, options: Options, folder: Path, watched: list[int]
) -> list[Figures]:
    """Both servers on one database, one after the other.

    Args:
        kind: Of database.
        url: Where it is; without tables.
        options: The size.
        folder: For files.
        watched: Processes whose processor time counts with the server's: PostgreSQL's.
    """
    migrate.upgrade(url)
    ctx = Context.open(url)
    studies = filled(ctx, options.studies, options.trials, options.free, STEPS, options.sampler)
    settle(ctx)
    token = tokens.create_token(ctx, "load", ["admin"]).secret
    ctx.close()
    port = _free_port()
    found = []
    bare = [sys.executable, "-m", "benchmarks.bare", url, str(port)]
    with _running(bare, port, "/docs", folder) as server:
        load = _load(options, port, "", (), options.bare_seconds, bare=True)
        found.append(_loaded("bare insert", load, options, server, watched))
    serve = [sys.executable, "-m", "tuner", "serve", "--workers", "0", "--port", str(port)]
    serve += ["--database-url", url, "--home", str(folder)]
    listened = tuple(studies[i % len(studies)] for i in range(options.dashboards))
    with _running(serve, port, "/readyz", folder) as server:
        load = _load(options, port, token, listened, 60 * options.minutes)
        found.append(_loaded("tuner", load, options, server, watched))
    return found


def _load(
    options: Options,
    port: int,
    token: str,
    studies: tuple[int, ...],
    seconds: float,
    bare: bool = False,
) -> Load:
    return Load(
        port=port,
        token=token,
        workers=options.workers // options.generators,
        slots=options.slots,
        period_seconds=options.period_seconds,
        studies=studies,
        seconds=seconds,
        warm_up_seconds=options.warm_up_seconds if not bare else 2.0,
        bare=bare,
    )


def _loaded(
    name: str, load: Load, options: Options, server: psutil.Process, watched: list[int]
) -> Figures:
    """Lets generators loose on a server, and watches it."""
    start = multiprocessing.get_context("spawn")
    pipes = []
    children = []
    for i in range(options.generators):
        here, there = start.Pipe()
        mine = load if i == 0 else Load(**{**vars(load), "studies": ()})
        child = start.Process(target=generate, args=(mine, there), daemon=True)
        child.start()
        there.close()  # so that a generator that dies is not waited for
        pipes.append(here)
        children.append(child)
    for pipe in pipes:
        assert pipe.recv() == "ready"
    for pipe in pipes:
        pipe.send("go")
    end = time.monotonic() + load.warm_up_seconds
    while time.monotonic() < end:
        time.sleep(0.05)
    before = _cpu(server, watched)
    memory = []
    every = max(0.5, load.seconds / 60)
    pairs = list(zip(children, pipes, strict=True))
    while any(child.is_alive() and not pipe.poll(0) for child, pipe in pairs):
        memory.append(server.memory_info().rss / 1e6)
        pipes[0].poll(every)
    spent = _cpu(server, watched) - before
    heard = [pipe.recv() for pipe in pipes]
    for child in children:
        child.join()
    return Figures(name, heard, load.seconds, spent, memory)


def _cpu(server: psutil.Process, watched: list[int]) -> float:
    """Processor seconds of the server and of the watched processes with their children."""
    total = 0.0
    for process in [server, *map(psutil.Process, watched)]:
        for one in [process, *process.children(recursive=True)]:
            try:
                times = one.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total


@contextmanager
def _running(command: list[str], port: int, path: str, folder: Path) -> Iterator[psutil.Process]:
    """A server's process, once it answers."""
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended: {(folder / 'server.log').read_text()}")
            try:
                httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with bound("127.0.0.1", 0) as listener:
        port: int = listener.getsockname()[1]
        return port


def table(database: str, figures: Sequence[Figures]) -> list[str]:
    """The figures as Markdown."""
    lines = [
        f"**{database}**",
        "",
        "| server | request | requests/s | p50 ms | p99 ms | max ms | refused | CPU ms a request |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in figures:
        share = 1e3 * one.cpu_seconds / max(one.requests, 1)
        for kind in one.kinds:
            ms = one.latencies(kind)
            refused = sum(n for said, n in one.refused.items() if said.split()[0] == kind)
            lines.append(
                f"| {one.name} | {kind} | {len(ms) / one.seconds:.0f} | {np.median(ms):.1f} "
                f"| {np.percentile(ms, 99):.1f} | {ms.max():.0f} | {refused} | {share:.2f} |"
            )
    ours = figures[-1]
    delays = np.array([d for heard in ours.heard for d in heard.delays])
    lines.append("")
    if len(delays):
        lines.append(
            f"Dashboards heard {len(delays)} events, {1e3 * np.median(delays):.0f} ms after they "
            f"were stored (p99 {1e3 * np.percentile(delays, 99):.0f} ms)."
        )
    lines.append(f"Memory of the server: {grown(ours.memory)}")
    generators = sum(heard.cpu_seconds for heard in ours.heard)
    lines.append(
        f"The generators took {generators / ours.seconds:.0%} of one core for it, server and "
        f"database {ours.cpu_seconds / ours.seconds:.0%}."
    )
    return [*lines, ""]


def grown(memory: Sequence[float]) -> str:
    """Resident memory at the beginning, the middle and the end, and the trend of the last half."""
    if len(memory) < 4:
        return "not watched long enough"
    half = np.array(memory[len(memory) // 2 :])
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0]) * len(half)
    points = [memory[0], memory[len(memory) // 2], memory[-1]]
    return f"{points[0]:.0f}, {points[1]:.0f}, {points[2]:.0f} MB; {slope:+.1f} MB in the last half"


@contextmanager
def databases(wanted: Sequence[str]) -> Iterator[dict[str, tuple[str, list[int]]]]:
    """An empty database of each kind, and the processes that serve it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tuner-bench-")))
        made: dict[str, tuple[str, list[int]]] = {}
        if "sqlite" in wanted:
            made["sqlite"] = (f"sqlite:///{folder / 'load.sqlite'}", [])
        if "postgresql" in wanted:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that XDG_RUNTIME_DIR is not set
                import pgserver  # noqa: PLC0415  (only where it is wanted)
            cluster = pgserver.get_server(tempfile.mkdtemp(prefix="tuner-bench-pg-"), "delete")
            stack.callback(cluster.cleanup)
            cluster.psql("CREATE DATABASE load;")
            made["postgresql"] = (cluster.get_uri("load"), [cluster.get_pid()])
        yield made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--slots", type=int, default=1, help="trials of each worker")
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--trials", type=int, default=1000, help="of each study")
    parser.add_argument("--dashboards", type=int, default=20)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--generators", type=int, default=1, help="processes that make the load")
    parser.add_argument("--databases", nargs="+", default=["postgresql", "sqlite"])
    given = vars(parser.parse_args())
    wanted = given.pop("databases")
    options = Options(**given)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"{options.workers} workers x {options.slots} trials, {options.dashboards} dashboards, "
        f"{options.studies} studies x {options.trials} trials, {options.minutes:g} minutes\n"
    )
    with databases(wanted) as made, tempfile.TemporaryDirectory(prefix="tuner-bench-") as folder:
        for kind, (url, watched) in made.items():
            figures = measure(kind, url, options, Path(folder), watched)
            print("\n".join(table(kind, figures)), flush=True)


if __name__ == "__main__":
    main()
