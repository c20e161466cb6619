"""Load for an HTTP service: workers that report each second, and dashboards that listen.

A process of its own with one event loop. The client is a few lines over asyncio's streams, because
httpx takes about as long for a request as the server that is to be measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection as Pipe
from typing import Any

METRICS = ("val_loss", "val_accuracy", "train_loss", "grad_norm", "noise_scale", "lr")
STAGGER = 10
"""Periods over which the workers begin."""
HEARTBEAT_SECONDS = 5
"""How often a worker shows life beside its reports."""


@dataclass(frozen=True)
class Load:
    """What one generator does.

    Attributes:
        port: The server's, on the loopback interface.
        token: What requests show; empty: nothing.
        workers: How many of them.
        slots: Trials that each holds.
        period_seconds: From one report of a worker to its next.
        studies: Ids of the studies that dashboards listen to, one dashboard each.
        seconds: How long.
        warm_up_seconds: How long before that nothing is counted.
        bare: Whether reports go to the bare endpoint instead.
    """

    port: int
    token: str
    workers: int
    slots: int
    period_seconds: float
    studies: tuple[int, ...]
    seconds: float
    warm_up_seconds: float
    bare: bool = False


@dataclass
class Heard:
    """What came back.

    Attributes:
        latencies: Seconds by kind of request, from when it was due to its answer.
        refused: Answers other than good ones, by kind and status.
        promised: Points that were acknowledged.
        events: How many events dashboards heard.
        delays: Seconds from when an event was stored until a dashboard heard it.
        cpu_seconds: Processor time that the generator took for it all.
    """

    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    promised: int = 0
    events: int = 0
    delays: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0


def generate(load: Load, answer: Pipe) -> None:
    """The generator's process: says ``ready``, waits for the word to begin, and what it heard."""
    asyncio.run(_generate(load, answer))


async def _generate(load: Load, answer: Pipe) -> None:
    heard = Heard()
    crowd = [Worker(i, load, heard) for i in range(load.workers)]
    for some in range(0, len(crowd), 20):
        await asyncio.gather(*(worker.begin() for worker in crowd[some : some + 20]))
    listeners = [asyncio.create_task(listen(load, study, heard)) for study in load.studies]
    answer.send("ready")
    await asyncio.to_thread(answer.recv)
    began = time.process_time()
    start = time.perf_counter()
    await asyncio.gather(*(worker.work(start) for worker in crowd))
    heard.cpu_seconds = time.process_time() - began
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    for worker in crowd:
        worker.connection.close()
    heard.latencies, heard.refused = dict(heard.latencies), dict(heard.refused)
    answer.send(heard)


class Connection:
    """One connection that is kept alive; one request at a time."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = "host: 127.0.0.1\r\nconnection: keep-alive\r\n"
        if token:
            self._head += f"authorization: Bearer {token}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: object) -> tuple[int, Any]:
        """The status and the answer of one request."""
        content = json.dumps(body, separators=(",", ":")).encode()
        reader, writer = await self._open()
        writer.write(
            f"{method} {path} HTTP/1.1\r\n{self._head}content-type: application/json\r\n"
            f"content-length: {len(content)}\r\n\r\n".encode()
            + content
        )
        status, headers = await _head(reader)
        answer = await reader.readexactly(int(headers.get("content-length", 0)))
        return status, json.loads(answer) if answer else None

    async def lines(self, path: str) -> AsyncIterator[bytes]:
        """The lines of an answer that goes on."""
        reader, writer = await self._open()
        writer.write(f"GET {path} HTTP/1.1\r\n{self._head}\r\n".encode())
        status, _headers = await _head(reader)
        if status != 200:
            raise RuntimeError(f"{path}: status {status}")
        rest = b""
        while size := int(await reader.readline() or b"0", 16):
            *lines, rest = (rest + await reader.readexactly(size)).split(b"\n")
            await reader.readline()
            for line in lines:
                yield line

    def close(self) -> None:
        """Closes it; the next call opens it anew."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    return int(status.split()[1]), headers


class Worker:
    """A simulated worker: trains nothing, reports each period what a formula says."""

    def __init__(self, number: int, load: Load, heard: Heard) -> None:
        self.number = number
        self.load = load
        self.heard = heard
        self.connection = Connection(load.port, load.token)
        self.id = 0
        self.held: dict[int, dict[str, Any]] = {}

    async def begin(self) -> None:
        """Registers."""
        if self.load.bare:
            return
        hello = {"name": f"load-{self.number}", "tasks": ["digits"], "slots": self.load.slots}
        _, answer = await self.connection.call("POST", "/api/v1/workers", hello)
        self.id = answer["worker_id"]
        self.connection.close()  # the server would, before the late ones need it

    async def work(self, start: float) -> None:
        """Reports each period until time is up; by its number it is earlier or later than others.

        Within the period, and in which of the periods it shows life and its trials end: those of a
        cluster did not start in one second either.
        """
        load = self.load
        period = load.period_seconds
        beat = max(1, round(HEARTBEAT_SECONDS / period))
        rounds = math.ceil((load.warm_up_seconds + load.seconds) / period)
        late = self.number % STAGGER
        for n in range(late, rounds):
            due = start + period * (n + self.number / load.workers)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            counted = due - start >= load.warm_up_seconds
            await self._report(due, counted)
            if not load.bare and (n + self.number // STAGGER) % beat == 0:
                held = {str(i): trial["token"] for i, trial in self.held.items()}
                await self._say("heartbeat", {"held": held}, time.perf_counter(), counted)

    async def _report(self, due: float, counted: bool) -> None:
        if self.load.bare:
            point = {"worker": self.number, "metrics": dict.fromkeys(METRICS, 0.5)}
            await self._say("insert", point, due, counted)
            return
        if not self.held:
            answer = await self._say("lease", {"k": self.load.slots}, due, counted)
            self._take(answer)
            return
        slots = [_slot(trial) for trial in self.held.values()]
        refill = self.load.slots - len(self.held)
        answer = await self._say("report", {"slots": slots, "refill": refill}, due, counted)
        for verdict in (answer or {}).get("verdicts", ()):
            if verdict["action"] != "lost":
                self.heard.promised += 1
            if verdict["action"] != "continue":
                self.held.pop(verdict["trial_id"], None)
        self._take(answer)

    def _take(self, answer: Any) -> None:
        for trial in (answer or {}).get("leased", ()):
            self.held[trial["trial_id"]] = {**trial, "step": trial["start"]}

    async def _say(self, what: str, body: object, due: float, counted: bool) -> Any:
        path = "/insert" if self.load.bare else f"/api/v1/workers/{self.id}/{what}"
        status, answer = await self.connection.call("POST", path, body)
        if counted:
            self.heard.latencies[what].append(time.perf_counter() - due)
            if status != 200:
                self.heard.refused[f"{what} {status}"] += 1
        return answer if status == 200 else None


def _slot(trial: dict[str, Any]) -> dict[str, Any]:
    trial["step"] += 1
    step = trial["step"]
    loss = 1.0 / step + 0.1 * (math.log10(trial["config"]["lr"]) + 3.0) ** 2
    return {
        "trial_id": trial["trial_id"],
        "token": trial["token"],
        "measurements": [
            {
                "step": step,
                "metrics": {**dict.fromkeys(METRICS, 0.5), "val_loss": loss},
                "samples": 1000 * step,
                "seconds": float(step),
            }
        ],
    }


async def listen(load: Load, study: int, heard: Heard) -> None:
    """A dashboard: one stream of one study's events."""
    connection = Connection(load.port, load.token)
    with contextlib.suppress(asyncio.IncompleteReadError):
        async for line in connection.lines(f"/api/v1/studies/{study}/events"):
            if line.startswith(b"data:"):
                event = json.loads(line.removeprefix(b"data:"))
                stored = datetime.fromisoformat(event["created_at"])
                heard.events += 1
                heard.delays.append((datetime.now(UTC) - stored).total_seconds())
    connection.close()
