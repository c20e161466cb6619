"""The dashboard beside optuna-dashboard, on the same trials, in the same browser, in one run.

    python benchmarks/dashboard.py [--trials 10000] [--reports 20] [--repeats 5]
    python benchmarks/dashboard.py --only crowd [--watchers 10] [--study-trials 300]

Both serve a study of the same finished trials from SQLite, each with its own server, to Debian's
Chromium, a fresh profile each time (so nothing is cached). Measured from the start of navigation:

- first picture: the first chart has ink on it. Ours begins with the learning curves, theirs with
  the optimization history.
- history: the optimization history is drawn, on both.
- bytes over the wire, all of them and without the scripts that draw (theirs bundle Plotly);
  elements in the page; the server's resident memory before the first look and after the last.
- refresh: what the server answers again when a page that is open asks what is new.
- new trial: from the moment that a new trial is reported complete until the open page shows it.

``crowd`` asks whether looking slows a study down: a real study (digits, one local worker) is run
to its end with nobody looking, and with so many dashboards open, in turn. The dashboards are
streams of events that ask for what a page asks for, at the pace at which a page asks; a browser's
own work would compete for the same cores and is not the server's. Seconds of the server, and of
those who watch, are processor time: on the two cores on which the worker trains.

Chromium must be installed (``/usr/bin/chromium``). Wall times of a busy machine mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import optuna
from playwright.sync_api import Browser, Page, sync_playwright
from storage_history import fill_optuna, fill_ours, loss

CHROMIUM = "/usr/bin/chromium"
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
PATIENCE = 600_000
"""Milliseconds: the peer's page takes minutes on a slow machine, and shall be measured then too."""
SETTLED = 5000
"""Milliseconds that a page has been open before news come."""
SIZE = {"width": 1440, "height": 900}
DRAWING = re.compile(r"bundle\.js|/js/(chart|surface|marks|scale|parallel)\.js")
"""Scripts that draw: the chart library of each."""


@dataclass
class Server:
    """One that runs: where, and as which process."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def memory_mb(self) -> float:
        """Resident memory of the process and its children."""
        pids = [self.process.pid, *children(self.process.pid)]
        return sum(resident(pid) for pid in pids) / 1e6

    @property
    def seconds(self) -> float:
        """Processor time of the server process alone, without its workers."""
        parts = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    own = [int(child) for child in path.read_text().split()] if path.exists() else []
    return own + [grandchild for child in own for grandchild in children(child)]


def resident(pid: int) -> int:
    """Bytes of memory that a process has now; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def serving(command: list[str], port: int, ready: str, **env: str) -> Iterator[Server]:
    """A server as a process of its own, until the block ends."""
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                if httpx.get(url + ready, timeout=60).status_code < 500:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        else:
            raise RuntimeError(f"{command[0]} does not answer")
        yield Server(url, process)
    finally:
        process.terminate()
        process.wait(30)


def ours(home: Path, workers: int = 0) -> Any:
    """Our server on the database in ``home``."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("tuner")), "serve", "--no-auth"]
    options = ["--port", str(port), "--workers", str(workers), "--home", str(home)]
    return serving([*command, *options], port, "/healthz")


def theirs(url: str) -> Any:
    """optuna-dashboard on that database."""
    port = free_port()
    command = str(Path(sys.executable).with_name("optuna-dashboard"))
    return serving([command, url, "--port", str(port)], port, "/api/meta")


# --- one page -----------------------------------------------------------------------------------

INKED = """(id) => {
    const canvas = document.querySelector(`#${id} canvas`);
    if (!canvas?.width) return false;
    const data = canvas.getContext("2d").getImageData(60, 30, canvas.width - 90,
        canvas.height - 80).data;
    let inked = 0;
    for (let i = 3; i < data.length; i += 4) inked += data[i] === 255;
    return inked > 400;
}"""
PLOTTED = "(id) => document.querySelectorAll(`#${id} .points path, #${id} .js-line`).length > 0"


@dataclass(frozen=True)
class Peer:
    """How to look at one of the two."""

    name: str
    path: str
    picture: tuple[str, str]
    """A test of the first picture, and its argument."""
    history: tuple[str, str]


OURS = Peer("ours", "/studies/1", (INKED, "curves"), (INKED, "history"))
THEIRS = Peer(
    "optuna-dashboard",
    "/dashboard/studies/1",
    (PLOTTED, "plot-history"),
    (PLOTTED, "plot-history"),
)


@dataclass
class Seen:
    """What one look at the page cost."""

    first: float = 0.0
    history: float = 0.0
    bytes: dict[str, float] = field(default_factory=dict)
    nodes: int = 0

    @property
    def total_kb(self) -> float:
        """All that came over the wire."""
        return sum(self.bytes.values()) / 1e3

    @property
    def data_kb(self) -> float:
        """The same without the scripts that draw."""
        return sum(n for url, n in self.bytes.items() if not DRAWING.search(url)) / 1e3


@contextmanager
def fresh(browser: Browser, seen: Seen | None = None) -> Iterator[Page]:
    """A page with an empty cache, whose traffic is counted into ``seen``."""
    context = browser.new_context(viewport=SIZE)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    if seen is not None:
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        urls: dict[str, str] = {}
        session.on(
            "Network.requestWillBeSent",
            lambda event: urls.__setitem__(event["requestId"], event["request"]["url"]),
        )
        session.on(
            "Network.loadingFinished",
            lambda event: seen.bytes.__setitem__(
                urls[event["requestId"]], event["encodedDataLength"]
            ),
        )
    yield page
    context.close()


def look(browser: Browser, server: Server, peer: Peer) -> Seen:
    """Opens the study's page once, and waits until it has shown what it shows first."""
    seen = Seen()
    with fresh(browser, seen) as page:
        began = time.perf_counter()
        page.goto(server.url + peer.path, wait_until="commit")
        page.wait_for_function(peer.picture[0], arg=peer.picture[1], polling=10)
        seen.first = time.perf_counter() - began
        page.wait_for_function(peer.history[0], arg=peer.history[1], polling=10)
        seen.history = time.perf_counter() - began
        if peer is OURS:  # its stream of events never ends, so there is no idle to wait for
            page.wait_for_timeout(1000)
        else:
            page.wait_for_load_state("networkidle")
        seen.nodes = page.evaluate("document.querySelectorAll('*').length")
    return seen


def timed(work: Callable[[], object]) -> float:
    """Seconds that it took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- a new trial --------------------------------------------------------------------------------


def new_trial_of_ours(browser: Browser, server: Server, trials: int) -> float:
    """Seconds from a trial's end until the open page has its row and its point."""
    api = httpx.Client(base_url=f"{server.url}/api/v1", timeout=600)
    (asked,) = api.post("/studies/1/ask", json={"k": 1}).raise_for_status().json()
    with fresh(browser) as page:
        page.goto(server.url + OURS.path)
        page.wait_for_function(INKED, arg="history", polling=50)
        page.wait_for_function("document.getElementById('live').textContent === 'live'")
        page.wait_for_timeout(SETTLED)
        told = {"token": asked["token"], "values": [loss(asked["config"])]}
        api.post(f"/trials/{asked['trial_id']}/tell", json=told).raise_for_status()
        began = time.perf_counter()
        page.wait_for_function(
            """([id, count]) => document.querySelector(`tr[data-id="${id}"] .chip.complete`)
                && document.querySelector("#history figcaption").textContent.includes(count)""",
            arg=[asked["trial_id"], str(trials + 1)],
            polling=10,
        )
        return time.perf_counter() - began


def new_trial_of_theirs(browser: Browser, server: Server, url: str, trials: int) -> float:
    """The same of the peer, whose page asks for news by itself; its point is what is waited for."""
    study = optuna.load_study(study_name="bench", storage=url)
    with fresh(browser) as page:
        page.goto(server.url + THEIRS.path)
        count = "document.querySelectorAll('#plot-history .points path').length"
        page.wait_for_function(f"{count} >= {trials}", polling=100)
        page.wait_for_timeout(SETTLED)
        before = page.evaluate(count)
        trial = study.ask()
        study.tell(trial, 0.5)
        began = time.perf_counter()
        page.wait_for_function(f"{count} > {before}", polling=10)
        return time.perf_counter() - began


# --- many that look -----------------------------------------------------------------------------


class Watcher(threading.Thread):
    """One open dashboard: listens, and asks for what a page asks for, at a page's pace."""

    def __init__(self, url: str, study: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.client = httpx.Client(base_url=url, timeout=600, headers={"accept": "*/*"})
        self.study, self.stop = study, stop
        self.requests = self.failures = 0
        self.revision = 0
        self.grown: set[int] = set()

    def get(self, path: str, **query: Any) -> httpx.Response:
        """One request of a page."""
        answer = self.client.get(path, params=query)
        self.requests += 1
        self.failures += answer.status_code >= 400
        return answer

    def run(self) -> None:
        """Opens the page, then follows the study."""
        base = f"/api/v1/studies/{self.study}"
        page = self.client.get(f"/studies/{self.study}", headers={"accept": "text/html"}).text
        first = re.search(r'data-event="(\d+)"', page)
        self.revision = self.get(f"{base}/overview").json()["revision"]
        for metric in ("val_loss", "lr"):
            self.get(f"{base}/curves", metric=metric)
        self.get(f"{base}/importances")
        after = first[1] if first else "0"
        next_at = slow_at = 0.0
        with self.client.stream("GET", f"{base}/events", params={"after": after}) as answer:
            for line in answer.iter_lines():
                if self.stop.is_set():
                    return
                if line.startswith("data:"):
                    self.heard(json.loads(line[5:]))
                elif self.grown and time.monotonic() >= next_at:
                    began = time.monotonic()
                    self.refresh(base)
                    if began >= slow_at:
                        self.get(f"{base}/importances")
                        self.get(f"{base}/timeline")
                        slow_at = began + 15
                    next_at = began + max(1.0, 4 * (time.monotonic() - began))

    def heard(self, event: dict[str, Any]) -> None:
        """Which trials have grown."""
        self.grown.update(event["data"].get("numbers") or ())
        if "number" in event["data"]:
            self.grown.add(event["data"]["number"])

    def refresh(self, base: str) -> None:
        """What a page fetches when something changed."""
        self.client.headers["accept"] = "text/html"
        self.get(f"/studies/{self.study}", fragment="head,table")
        self.client.headers["accept"] = "*/*"
        for metric in ("val_loss", "lr"):
            self.get(f"{base}/curves", metric=metric, numbers=sorted(self.grown)[-300:])
        news = self.get(f"{base}/overview", since=self.revision).json()
        self.revision = news["revision"]
        self.grown.clear()


def run_study(server: Server, trials: int, watchers: int) -> dict[str, float]:
    """Runs one study to its end, watched by so many; how long it took, and what it cost."""
    api = httpx.Client(base_url=f"{server.url}/api/v1", timeout=600)
    spec = {
        "name": f"crowd-{watchers}-{time.time_ns()}",
        "task": {"name": "digits"},
        "space": {
            "optimizer": "adamw",
            "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
            "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
        },
        "sampler": {"name": "random"},
        "pruner": {"name": "none"},
        "budget": {"trials": trials, "epochs": 10},
        "max_concurrent": 8,
    }
    stop = threading.Event()
    before, looked = server.seconds, time.process_time()
    began = time.perf_counter()
    study = api.post("/studies", json=spec).raise_for_status().json()["id"]
    crowd = [Watcher(server.url, study, stop) for _ in range(watchers)]
    for watcher in crowd:
        watcher.start()
    while api.get(f"/studies/{study}").raise_for_status().json()["state"] != "completed":
        time.sleep(0.1)
    took = time.perf_counter() - began
    spent, looked = server.seconds - before, time.process_time() - looked
    stop.set()
    for watcher in crowd:
        watcher.join(30)
    return {
        "watchers": watchers,
        "seconds": took,
        "server_seconds": spent,
        "watcher_seconds": looked,
        "requests": sum(w.requests for w in crowd),
        "failures": sum(w.failures for w in crowd),
    }


# --- the run ------------------------------------------------------------------------------------


def median(values: list[float]) -> str:
    """The middle value, and the ends."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def pages(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both dashboards on the same trials."""
    home, peer_url = folder / "home", f"sqlite:///{folder}/optuna.sqlite"
    home.mkdir()
    fill_ours(f"sqlite:///{home}/tuner.sqlite", given.trials, "random", given.reports)
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=CHROMIUM, args=ARGS
        )
        servers = [(OURS, stack.enter_context(ours(home)))]
        if not given.alone:
            fill_optuna(peer_url, given.trials, given.reports)
            servers.append((THEIRS, stack.enter_context(theirs(peer_url))))
        print(f"{given.trials} trials x {given.reports} reports, {given.repeats} looks each\n")
        for peer, server in servers:
            idle = server.memory_mb
            repeats = given.repeats if peer is OURS else min(given.repeats, given.peer_repeats)
            seen = [look(browser, server, peer) for _ in range(repeats)]
            query = "/api/v1/studies/1/overview?since=1" if peer is OURS else "/api/studies/1"
            client = httpx.Client(timeout=600)
            refresh = [timed(lambda: client.get(server.url + query)) for _ in range(repeats)]  # noqa: B023  (called at once)
            after = server.memory_mb  # before a trial is asked for, which loads the search
            if peer is OURS:
                new = [new_trial_of_ours(browser, server, given.trials + i) for i in range(repeats)]
            else:
                new = [new_trial_of_theirs(browser, server, peer_url, given.trials)]
            row = {
                "first picture s": median([one.first for one in seen]),
                "history s": median([one.history for one in seen]),
                "kB": round(seen[-1].total_kb),
                "kB besides what draws": round(seen[-1].data_kb),
                "elements": seen[-1].nodes,
                "server MB, idle": round(idle),
                "server MB, after": round(after),
                "refresh s": median(refresh),
                "new trial s": median(new),
            }
            found[peer.name] = row
            print(peer.name)
            for name, value in row.items():
                print(f"  {name:<24}{value}")
            print(flush=True)
        browser.close()
    return found


def crowd(given: argparse.Namespace, folder: Path) -> list[dict[str, float]]:
    """A study with nobody looking, and with many, in turn."""
    home = folder / "crowd"
    home.mkdir()
    rows = []
    print("watchers   study s   server s   watchers' s   requests   failures")
    with ours(home, workers=1) as server:
        run_study(server, 8, 0)  # warms the worker up
        for _ in range(given.repeats):
            for watchers in (0, given.watchers):
                row = run_study(server, given.study_trials, watchers)
                rows.append(row)
                print(
                    f"{watchers:>8}{row['seconds']:>10.1f}{row['server_seconds']:>11.1f}"
                    f"{row['watcher_seconds']:>14.1f}{row['requests']:>11.0f}{row['failures']:>11.0f}",
                    flush=True,
                )
    alone, watched = (
        statistics.median(r["seconds"] for r in rows if bool(r["watchers"]) is busy)
        for busy in (False, True)
    )
    print(f"\nwatched / alone: {watched / alone:.2f}")
    return rows


def main() -> None:
    """Runs what the command line asks for, and prints as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=20, help="measurements of each trial")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-repeats", type=int, default=1, help="the peer takes minutes")
    parser.add_argument("--alone", action="store_true", help="without optuna-dashboard")
    parser.add_argument("--only", choices=["pages", "crowd"])
    parser.add_argument("--watchers", type=int, default=10)
    parser.add_argument("--study-trials", type=int, default=300)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tuner-bench-") as folder:
        if given.only != "crowd":
            figures["pages"] = pages(given, Path(folder))
        if given.only != "pages":
            figures["crowd"] = crowd(given, Path(folder))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
