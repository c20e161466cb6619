"""The faults, one function each: what is torn at, how, and how often it was torn.

Each takes a stage and a number of rounds, lets every study end, and says how many times the fault
was injected. What must hold then is the same for all: :mod:`tests.faults.invariants`.
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.children import TASK
from tests.faults.cluster import Cluster
from tests.faults.processes import SERVICE, Server, Worker
from tests.faults.stage import Stage
from tests.installation import until
from tuner.protocol import LeaseRequest, Measured, Report, SlotReport, WorkerHello
from tuner.transport import Transport
from tuner.worker.http import HttpGateway

LEASE = float(SERVICE["lease_seconds"])
SMALLEST_FILE = 64 * 1024
"""Bytes beyond which a full disk takes nothing; a checkpoint of digits has several times as many,
a log fewer."""
CLAIMING_THREADS = 50


@dataclass(frozen=True)
class Scene:
    """One fault.

    Attributes:
        name: As the table shows it.
        play: Plays it.
        database: ``sqlite`` or ``postgresql``.
        quick: Rounds that take a few seconds.
    """

    name: str
    play: Callable[[Stage, int, Cluster | None], int]
    database: str
    quick: int


def killed_worker(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """SIGKILL, in the middle of whatever a worker does; another takes its place."""
    workers = _workers(stage, 2)

    def inject(_round: int) -> None:
        worker = stage.rng.choice(workers)
        worker.kill()
        worker.restart()

    stage.play(rounds, inject, trials=16, epochs=100, pause=(0.3, 1.5))
    return rounds


def terminated_worker(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """SIGTERM: it saves its slots and returns its leases before it ends."""
    (worker,) = _workers(stage, 1, lease_seconds=60.0)

    def inject(_round: int) -> None:
        assert worker.terminate() == 0
        assert not stage.under_way(stage.studies[-1])
        worker.restart()

    stage.play(rounds, inject, trials=16, epochs=100, pause=(0.3, 1.0))
    attempts = {trial.attempt for study in stage.studies for trial in stage.trials(study)}
    assert attempts == {1}, "a return is no failed attempt"
    return rounds


def frozen_worker(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """SIGSTOP past the lease, then SIGCONT: it hears that it has lost its slots, and works on."""
    workers = _workers(stage, 2)

    def inject(i: int) -> None:
        worker = workers[i % 2]
        number = worker.log.stem
        until(lambda: stage.held_by(number) or _over(stage), "the worker to hold trials")
        before = stage.ledger.turned_away
        worker.freeze(LEASE + 2.0)
        until(lambda: stage.ledger.turned_away > before or _over(stage), "the worker to be told")
        assert worker.alive

    stage.play(rounds, inject, trials=16, epochs=400, pause=(0.1, 0.5))
    assert stage.ledger.turned_away > 0, "no worker was frozen while it held a trial"
    return rounds


def killed_server(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """SIGKILL of the server, in the middle of whatever requests it answers."""
    server = stage.server()
    for _ in range(4):
        stage.hand(server.url)

    def inject(_round: int) -> None:
        server.kill()
        server.restart()

    stage.play(rounds, inject)
    return rounds


def killed_replica(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """Two servers on one database, each with its own workers; one or the other is killed."""
    servers = [stage.server(), stage.server()]
    for server in servers * 2:
        stage.hand(server.url)

    def inject(_round: int) -> None:
        server = stage.rng.choice(servers)
        server.kill()
        server.restart()

    stage.play(rounds, inject)
    return rounds


def killed_postgres(stage: Stage, rounds: int, cluster: Cluster | None) -> int:
    """SIGKILL of a connection's process in a transaction, or of the whole cluster."""
    assert cluster is not None
    server = stage.server()
    for _ in range(4):
        stage.hand(server.url)

    def inject(i: int) -> None:
        if i % 4 == 3:
            cluster.crash()
        else:
            until(
                lambda: cluster.kill_transaction(stage.rng) or _over(stage),
                "a connection in a transaction",
            )

    stage.play(rounds, inject)
    return rounds


def lost_answers(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """Connections that break before the server hears, or after it has acted."""
    # Leases that outlive the test: a trial that was given to nobody would never end.
    return _bad_network(stage, rounds, stage.server(lease_seconds=3600.0), refuse=0.1, drop=0.2)


def repeated_requests(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """Requests that arrive twice, at once or much later."""
    return _bad_network(stage, rounds, stage.server(), twice=0.2, late=0.2)


def _bad_network(stage: Stage, rounds: int, server: Server, **faults: float) -> int:
    """Hands and a real worker behind a proxy, until enough has gone wrong."""
    proxy = stage.proxy(server, **faults)
    for _ in range(3):
        stage.hand(proxy.url)
    stage.worker(proxy.url)

    def inject(i: int) -> None:
        until(lambda: proxy.injected > i or _over(stage), "the network to break")

    while proxy.injected < rounds:
        stage.play(1, inject, pause=(0.0, 0.0))
    return proxy.injected


def full_disk(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """No checkpoint fits the disk for a while, and some workers are killed meanwhile."""
    workers = _workers(stage, 2)

    def inject(i: int) -> None:
        worker = stage.rng.choice(workers)
        said = worker.log.read_text().count("was not saved")
        _limit_files(worker.pid, SMALLEST_FILE)
        until(
            lambda: worker.log.read_text().count("was not saved") > said or _over(stage),
            "a checkpoint that is not saved",
        )
        if i % 2:
            worker.kill()
            worker.restart()
        else:
            _limit_files(worker.pid, resource.RLIM_INFINITY)

    # A model whose checkpoint is large beside a log.
    stage.play(rounds, inject, trials=8, epochs=8, task="digits", pause=(0.2, 0.6))
    assert any("was not saved" in worker.log.read_text() for worker in workers)
    return rounds


def full_server_disk(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """Nothing fits the disk that holds the SQLite file, for a while."""
    server = stage.server()
    for _ in range(4):
        stage.hand(server.url)

    def inject(_round: int) -> None:
        _limit_files(server.pid, SMALLEST_FILE)
        threading.Event().wait(stage.rng.uniform(0.1, 0.4))
        _limit_files(server.pid, resource.RLIM_INFINITY)

    stage.play(rounds, inject)
    return rounds


def set_clock(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """The server's clock, and a worker's, jump forward and back, by seconds and by days."""
    proxy = stage.proxy(server := stage.server())
    for _ in range(3):
        stage.hand(server.url)
    worker = stage.worker(proxy.url)

    def inject(_round: int) -> None:
        jump = stage.rng.choice([LEASE, 60.0, 3600.0, 86_400.0]) * stage.rng.choice([-1, 1])
        stage.rng.choice([server, worker]).ahead.value += jump

    stage.play(rounds, inject)
    return rounds


def crowded_claims(stage: Stage, rounds: int, _cluster: Cluster | None) -> int:
    """Two workers claim from fifty threads at once, on two servers."""
    servers = [stage.server(), stage.server()]
    gateways = [HttpGateway(Transport(servers[i % 2].url)) for i in range(CLAIMING_THREADS)]
    workers = [
        gateways[i].register(WorkerHello(name=f"crowd-{i}", tasks=[TASK], slots=100)).worker_id
        for i in range(2)
    ]
    for _ in range(rounds):
        study = stage.submit(trials=64, epochs=2)
        for _wave in range(50):
            if stage.study(study).state == "completed":
                break
            _wave_of_claims(stage, gateways, workers)
        assert stage.study(study).state == "completed"
    for gateway in gateways:
        gateway.close()
    return rounds * CLAIMING_THREADS


def _wave_of_claims(stage: Stage, gateways: list[HttpGateway], workers: list[int]) -> None:
    """Every thread claims a few trials at the same moment, and trains them."""
    barrier = threading.Barrier(len(gateways))
    wanted = [stage.rng.randint(1, 3) for _ in gateways]
    held: list[int] = []
    failures: list[BaseException] = []

    def claim(i: int) -> None:
        try:
            worker = workers[i % 2]
            barrier.wait()
            leased = gateways[i].lease(worker, LeaseRequest(k=wanted[i])).leased
            held.extend(trial.trial_id for trial in leased)
            stage.ledger.given(leased)
            for step in (1, 2):
                slots = [
                    SlotReport(
                        trial_id=trial.trial_id,
                        token=trial.token,
                        measurements=[Measured(step=step, metrics={"val_loss": 1.0 / step})],
                    )
                    for trial in leased
                ]
                if slots:
                    report = Report(slots=slots, refill=-len(slots))
                    stage.ledger.answered(report, gateways[i].report(worker, report))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=claim, args=(i,)) for i in range(len(gateways))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert len(held) == len(set(held)), "a trial was handed to two threads"


def _workers(stage: Stage, count: int, **settings: float) -> list[Worker]:
    """Real workers behind a proxy that only keeps the ledger."""
    proxy = stage.proxy(stage.server(**settings))
    return [stage.worker(proxy.url) for _ in range(count)]


def _over(stage: Stage) -> bool:
    return stage.study(stage.studies[-1]).state == "completed"


def _limit_files(pid: int, size: int) -> None:
    """Lets a process write no file beyond a size, as if its disk were full."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


SCENES = (
    Scene("SIGKILL of a worker", killed_worker, "sqlite", 3),
    Scene("SIGTERM of a worker", terminated_worker, "sqlite", 2),
    Scene("worker frozen past its lease", frozen_worker, "sqlite", 1),
    Scene("SIGKILL of the server", killed_server, "sqlite", 4),
    Scene("SIGKILL of one of two servers", killed_replica, "postgresql", 4),
    Scene("SIGKILL of PostgreSQL in a transaction", killed_postgres, "postgresql", 4),
    Scene("answers lost", lost_answers, "sqlite", 40),
    Scene("requests repeated, soon or late", repeated_requests, "postgresql", 40),
    Scene("disk full at a checkpoint", full_disk, "sqlite", 3),
    Scene("disk full at the server", full_server_disk, "sqlite", 4),
    Scene("clock set forward and back", set_clock, "sqlite", 6),
    Scene("two workers claim from 50 threads", crowded_claims, "sqlite", 1),
    Scene("two workers claim from 50 threads", crowded_claims, "postgresql", 1),
)
__all__ = ["SCENES", "Scene", "Server"]
