"""Workers on a real Ray cluster: killed, scaled, drained; no trial is lost or run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.installation import PATIENCE_SECONDS, Installation, installation
from tests.installation import until as asked_until
from tests.tuner.worker.ray.clusters import Cluster, running
from tuner.cli import main

STEPS, EVAL_EVERY = 20, 5
"""Seconds of training, so that all nodes are seen at it also where that is quick."""
SLOTS, WORKERS = 2, 3

until = partial(asked_until, pause_seconds=0.3)
"""A cluster leaves its machine little: answers 20 times a second would take half a core of it."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running() as started:
        started.add(num_cpus=2, num_gpus=1)
        yield started


@pytest.fixture
def third(cluster: Cluster) -> Iterator[Any]:
    """A node that is gone when the test is over, killed by it or not."""
    with cluster.another(num_cpus=1) as node:
        yield node


@pytest.fixture
def lease_seconds() -> int:
    """A cluster and its workers share two cores here, so that a heart may beat late."""
    return 15


@pytest.fixture
def here(tmp_path: Path, cluster: Cluster, lease_seconds: int) -> Iterator[Installation]:
    with installation(tmp_path) as installed:
        installed.environment |= {
            "TUNER_LEASE_SECONDS": str(lease_seconds),
            "TUNER_MAX_ATTEMPTS": "10",
        }
        installed.serve()
        yield installed


def driver(here: Installation, cluster: Cluster, *more: str) -> subprocess.Popen[bytes]:
    options = ["--address", cluster.address, "--device", "cpu", "--slots", str(SLOTS), *more]
    return here.start("worker", "--engine", "ray", *options)


def workers(here: Installation) -> list[dict[str, Any]]:
    """Those that are present."""
    found = here.http.get("workers").raise_for_status().json()["items"]
    return [worker for worker in found if worker["state"] != "gone"]


def pool(here: Installation) -> dict[str, Any]:
    (found,) = here.http.get("pools").raise_for_status().json()
    return dict(found)


def command(here: Installation, *arguments: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "tuner", *arguments, "--json"],
        env=here.environment,
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    return dict(json.loads(done.stdout))


def submitted(here: Installation, name: str, trials: int) -> int:
    budget = {"trials": trials, "epochs": STEPS * EVAL_EVERY}
    return here.submit(name=name, budget=budget, eval_every=EVAL_EVERY)


def under_way(here: Installation, study: int, worker: int | None = None) -> bool:
    """Whether trials (of that worker) run, and have measured something."""
    return any(
        trial["state"] == "running" and trial["step"] >= 1 and worker in (None, trial["worker_id"])
        for trial in here.trials(study)
    )


def assert_accounted(here: Installation, study: int) -> None:
    """Every trial of its budget exactly once, complete, with each of its steps measured."""
    until(lambda: here.study(study)["state"] == "completed", "the study to finish")
    trials = here.trials(study)
    wanted = here.study(study)["spec"]["budget"]["trials"]
    assert sorted(trial["number"] for trial in trials) == list(range(wanted))
    assert {(trial["state"], trial["reason"]) for trial in trials} == {("complete", None)}
    for trial in trials:
        assert sorted(set(here.steps(trial["id"]))) == list(range(1, STEPS + 1))


def attempts(here: Installation, study: int) -> int:
    return max(trial["attempt"] for trial in here.trials(study))


def test_a_killed_actor_and_a_killed_node_lose_no_trial(
    here: Installation, cluster: Cluster, third: Any
) -> None:
    bucket = here.home / "bucket"
    driver(here, cluster, "--checkpoints", bucket.as_uri())
    until(lambda: len(workers(here)) == WORKERS, "a worker for each CPU")
    assert bucket.is_dir()
    assert {w["name"].partition("-")[0] for w in workers(here)} == {"ray"}

    first = submitted(here, "first", SLOTS * WORKERS)
    known = {worker["id"] for worker in workers(here)}
    victim = until(
        lambda: next((w for w in workers(here) if under_way(here, first, w["id"])), None),
        "a worker that trains",
    )
    os.kill(victim["device"]["pid"], signal.SIGKILL)
    assert_accounted(here, first)
    assert attempts(here, first) > 1, "the kill must have hit trials that ran"
    until(lambda: {w["id"] for w in workers(here)} - known, "Ray to start it again")

    until(lambda: pool(here)["running"] == WORKERS, "all of them")
    # Two more than fit, for a worker that comes late.
    second = submitted(here, "second", SLOTS * (WORKERS + 1))
    until(
        lambda: all(under_way(here, second, worker["id"]) for worker in workers(here)),
        "trials under way on every node",
    )
    cluster.kill(third)
    assert_accounted(here, second)
    assert attempts(here, second) > 1, "the kill must have hit trials that ran"
    until(lambda: pool(here)["running"] == 2, "the pool to fit the nodes that are left")


@pytest.mark.parametrize("lease_seconds", [300])  # none may end here
def test_it_is_scaled_and_drained_without_a_lost_attempt(
    here: Installation, cluster: Cluster
) -> None:
    process = driver(here, cluster, "--name", "farm")
    until(lambda: len(workers(here)) == 2, "as many workers as fit")
    until(lambda: pool(here)["fits"] == 2, "the pool to know the nodes")
    assert (pool(here)["name"], pool(here)["wanted"]) == ("farm", None)
    study = submitted(here, "study", 2 * SLOTS)
    until(lambda: under_way(here, study), "trials under way")
    assert command(here, "workers", "scale", "1")["wanted"] == 1
    until(lambda: len(workers(here)) == 1, "one to go")
    shown = command(here, "workers")
    assert [w["name"].partition("-")[0] for w in shown["workers"]] == ["farm"]
    assert [(p["name"], p["wanted"]) for p in shown["pools"]] == [("farm", 1)]
    assert command(here, "workers", "drain", str(shown["workers"][0]["id"]))["state"] == "draining"
    until(
        lambda: {w["id"] for w in workers(here)} - {shown["workers"][0]["id"]},
        "another in the drained one's place",
    )
    assert_accounted(here, study)

    later = submitted(here, "later", 2 * SLOTS)
    until(lambda: under_way(here, later), "trials under way")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 0
    assert not [trial for trial in here.trials(later) if trial["state"] == "running"]
    assert (pool(here)["present"], pool(here)["running"], workers(here)) == (False, 0, [])

    # The wish was kept while nobody was there to carry it out.
    driver(here, cluster, "--name", "farm")
    until(lambda: pool(here)["running"] == 1, "one worker again")
    assert_accounted(here, later)
    assert attempts(here, study) == attempts(here, later) == 1, "nothing was lost to a lease's end"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the node's GPU is there")
def test_what_no_actor_can_do_ends_the_driver_with_the_reason(
    here: Installation, cluster: Cluster
) -> None:
    """The node says that it has a GPU; the actor on it finds none."""
    process = driver(here, cluster, "--device", "auto")
    assert process.wait(PATIENCE_SECONDS) == 2
    log = here.log(len(here.processes) - 1).read_text()
    assert "tuner: device: this machine has no CUDA device that torch can use" in log


def test_a_second_driver_takes_the_pool_over(here: Installation, cluster: Cluster) -> None:
    first = driver(here, cluster)
    until(lambda: workers(here), "a worker")
    driver(here, cluster)
    assert first.wait(PATIENCE_SECONDS) == 1
    until(lambda: pool(here)["running"] == 2, "the second one's workers")


def test_nobody_at_the_address_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "--engine", "ray", "--address", "127.0.0.1:1"]) == 1
    printed = capsys.readouterr()
    assert "tuner: no Ray cluster at 127.0.0.1:1" in printed.err
    assert printed.err.count("\n") == 1
