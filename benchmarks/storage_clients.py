"""What ``storage.py`` measures: programs that ask, report ten times and tell, until time is up."""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import optuna
from storage_history import SPACE, STEPS, loss, optuna_storage

from tuner import service
from tuner.protocol import LeaseRequest, Measured, Report, SlotReport, WorkerHello
from tuner.service.background import running
from tuner.service.context import Context
from tuner.storage import SqlStorage

SLOTS = 16
WARM = 3
"""Cycles before the clock starts: they read the history, and PostgreSQL prepares its statements."""
PRELOADED = ["optuna", "psycopg", "sqlalchemy", "scipy.special", "scipy.stats", "tuner.storage"]

Cycle = tuple[int, float]
"""How many trials went through it, and the seconds in which they were asked for."""


@dataclass(frozen=True)
class Figures:
    """What all clients of one kind did together.

    Attributes:
        rate: Cycles a second.
        ask_ms: Median milliseconds of asking, for a worker of the request that brings its trials.
        cpu_ms: Processor milliseconds a cycle, of the client and all that it calls in its process;
            PostgreSQL's own come on top.
    """

    rate: float
    ask_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Ran:
    """What one client did: cycles in so many seconds, those of each asking, and processor time."""

    cycles: int
    seconds: float
    asks: list[float]
    cpu: float


def run(cycles: Iterator[Cycle], start: Any, seconds: float, clock: Callable[[], float]) -> Ran:
    """Cycles until the time is up, after a start in common; ``clock`` counts processor time."""
    for _ in range(WARM):
        next(cycles)
    start.wait()
    began, before, done, asks = time.perf_counter(), clock(), 0, []
    while time.perf_counter() - began < seconds:
        trials, asked = next(cycles)
        done += trials
        asks.append(asked)
    return Ran(done, time.perf_counter() - began, asks, clock() - before)


def gathered(ran: list[Ran]) -> Figures:
    """The figures of several clients."""
    rate = sum(one.cycles / one.seconds for one in ran)
    asks = [ask for one in ran for ask in one.asks]
    cpu = sum(one.cpu for one in ran) / sum(one.cycles for one in ran)
    return Figures(rate, 1000 * statistics.median(asks), 1000 * cpu)


# --- Optuna's program, a process each -----------------------------------------------------------


def through_optuna(study: optuna.Study) -> Iterator[Cycle]:
    """Optuna's own calls, as its documentation has them."""
    while True:
        began = time.perf_counter()
        trial = study.ask()
        for name, p in SPACE.items():
            trial.suggest_float(name, p["low"], p["high"], log=p.get("log", False))
        asked = time.perf_counter() - began
        value = loss(trial.params)
        for step in range(1, STEPS + 1):
            trial.report(value + 1 / step, step)
        study.tell(trial, value)
        yield 1, asked


def optuna_client(
    url: str, door: bool, sampler: str, seed: int, seconds: float, start: Any, done: Any
) -> None:
    """One process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = SqlStorage(url) if door else optuna_storage(url)
    made = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}[sampler]
    study = optuna.load_study(study_name="bench", storage=storage, sampler=made(seed=seed))
    done.put(run(through_optuna(study), start, seconds, time.process_time))


def by_processes(url: str, door: bool, sampler: str, clients: int, seconds: float) -> Figures:
    """All client processes together."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    start, done = context.Barrier(clients), context.Queue()
    processes = [
        context.Process(
            target=optuna_client, args=(url, door, sampler, seed, seconds, start, done), daemon=True
        )
        for seed in range(clients)
    ]
    for process in processes:
        process.start()
    ran = [done.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return gathered(ran)


# --- our service, a thread each -----------------------------------------------------------------


def single(ctx: Context, study_id: int) -> Iterator[Cycle]:
    """One trial at a time, by a user's own loop."""
    while True:
        began = time.perf_counter()
        (trial,) = service.ask(ctx, study_id, 1)
        asked = time.perf_counter() - began
        value = loss(trial.config)
        for step in range(1, STEPS + 1):
            metrics = {"val_loss": value + 1 / step}
            service.report_trial(
                ctx, trial.trial_id, trial.token, Measured(step=step, metrics=metrics)
            )
        service.tell(ctx, trial.trial_id, trial.token, values=[value])
        yield 1, asked


def worker(ctx: Context, study_id: int) -> Iterator[Cycle]:
    """A population of slots, all reported in one request a round."""
    me = service.register_worker(ctx, WorkerHello(name="w", tasks=["digits"], slots=SLOTS))
    leased = service.lease(ctx, me.worker_id, LeaseRequest(k=SLOTS, prefer=study_id)).leased
    while True:
        losses = {slot.trial_id: loss(slot.config) for slot in leased}
        for step in range(1, STEPS + 1):
            slots = [
                SlotReport(
                    trial_id=slot.trial_id,
                    token=slot.token,
                    measurements=[
                        Measured(
                            step=step,
                            metrics=dict.fromkeys(slot.metrics, losses[slot.trial_id] + 1 / step),
                            samples=1000 * step,
                            seconds=0.1 * step,
                        )
                    ],
                    outcome="complete" if step == STEPS else "",
                )
                for slot in leased
            ]
            began = time.perf_counter()
            news = Report(slots=slots, prefer=study_id)  # each slot freed is refilled
            answer = service.report(ctx, me.worker_id, news)
        if [verdict.action for verdict in answer.verdicts] != ["finish"] * SLOTS:
            raise RuntimeError(f"not all finished: {answer.verdicts}")
        leased = answer.leased
        yield SLOTS, time.perf_counter() - began


def by_threads(
    url: str, client: Callable[[Context, int], Iterator[Cycle]], clients: int, seconds: float
) -> Figures:
    """All clients together, as threads of one server, which does its upkeep beside."""
    ctx = Context.open(url)
    start, ran = threading.Barrier(clients), []

    def serve() -> None:
        try:
            ran.append(run(client(ctx, 1), start, seconds, time.thread_time))
        except BaseException:
            start.abort()
            raise

    threads = [threading.Thread(target=serve) for _ in range(clients)]
    with running(*service.chores(ctx)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ctx.close()
    if len(ran) < clients:
        raise RuntimeError("a client failed; see above")
    return gathered(ran)


CONTENDERS: dict[str, Callable[[str, str, int, float], Figures]] = {
    "optuna": lambda url, *how: by_processes(url, False, *how),
    "door": lambda url, *how: by_processes(url, True, *how),
    "single": lambda url, _sampler, *how: by_threads(url, single, *how),
    "worker": lambda url, _sampler, *how: by_threads(url, worker, *how),
}
