"""A client tries to have something run that no worker offers: it can name tasks, no more."""

from __future__ import annotations

import json
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import Server, running
from tests.installation import until
from tuner.transport import Transport
from tuner.worker.http import HttpGateway
from tuner.worker.loop import run_worker
from tuner.worker.scripts.config import Script

SPACE = {"lr": {"type": "float", "low": 0.1, "high": 1.0}}
INJECTED = ["$(touch hacked)", "; touch hacked", "`touch hacked`", "' || touch hacked #", "%n$x"]


class Evil:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        import os  # noqa: PLC0415  (what is pickled names it)

        return os.mkdir, (self.path,)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    with running(tmp_path / "server") as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """Whoever may submit, and no more."""
    with server.client(server.token("submit", "read")) as connected:
        yield connected


@pytest.fixture
def worker(server: Server, tmp_path: Path) -> Iterator[Path]:
    """A worker with one script of its own, at work; its folder."""
    folder = tmp_path / "worker"
    folder.mkdir()
    (folder / "script.py").write_text(
        "import json, os, tuner.trial\n"
        "trial = tuner.trial.current()\n"
        "print('GOT' + json.dumps([trial.params, os.environ['TUNER_PARAM_TEXT']]), flush=True)\n"
        "trial.report(1, loss=1)\n"
    )
    script = Script.model_validate(
        {
            "command": ["sh", "-c", f"{sys.executable} script.py"],
            "directory": folder,
            "environment": {"PYTHONPATH": str(Path(__file__).parents[2])},
        }
    )
    stop = threading.Event()
    gateway = HttpGateway(Transport(server.url, server.token("work")))
    thread = threading.Thread(
        target=run_worker,
        args=(gateway,),
        kwargs={
            "name": "w", "device": "cpu", "home": folder, "stop": stop, "scripts": {"mine": script},
        },
    )  # fmt: skip
    thread.start()
    try:
        with server.client() as admin:
            while not admin.get("/api/v1/workers").json()["items"] and thread.is_alive():
                time.sleep(0.05)
        yield folder
    finally:
        stop.set()
        thread.join()
        gateway.close()


def submit(client: httpx.Client, **study: Any) -> httpx.Response:
    raw = {"name": "x", "space": SPACE, "budget": {"trials": 1, "epochs": 1}, **study}
    return client.post("/api/v1/studies", json=raw)


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ("os:system", "task.name"),
        ("tests.tuner.tasks.zoo:MlpTask", "task.name"),
        ("../worker/script.py", "task.name"),
        ("mine; touch hacked", "task.name"),
        ({"name": "mine", "params": {"command": ["touch", "hacked"]}}, "task.params.command"),
        ({"name": "mine", "params": {"environment": {"PYTHONPATH": "/x"}}}, "task.params.env"),
        ({"name": "mine", "command": ["touch", "hacked"]}, "task.command"),
        ({"name": "digits", "params": {"__class__": "x"}}, "task.params.__class__"),
        ({"name": "digits", "params": {"self": "x"}}, "task.params.self"),
    ],
    ids=str,
)
def test_what_no_worker_has_cannot_be_named(
    client: httpx.Client, worker: Path, task: Any, field: str
) -> None:
    answer = submit(client, task=task)
    assert answer.status_code == 422
    assert answer.json()["field"].startswith(field)
    assert client.get("/api/v1/studies").json()["items"] == []


def test_only_a_worker_registers_tasks(server: Server, client: httpx.Client) -> None:
    form = {"name": "theirs", "kind": "script", "objective": ["loss", "minimize"]}
    hello = {"name": "w", "tasks": ["theirs"], "forms": [form]}
    assert client.post("/api/v1/workers", json=hello).status_code == 403
    with server.client(server.token("work")) as trainer:
        commanding = {**form, "command": ["touch", "hacked"]}
        refused = trainer.post("/api/v1/workers", json={**hello, "forms": [commanding]})
        assert refused.status_code == 422
    assert submit(client, task="theirs").status_code == 422


def test_parameters_reach_a_script_as_text(client: httpx.Client, worker: Path) -> None:
    """Whatever they hold, a shell among those that it goes by reads none of it."""
    space = {"text": {"type": "categorical", "choices": INJECTED}}
    budget = {"trials": len(INJECTED), "epochs": 1}
    answer = submit(client, task="mine", space=space, sampler="grid", budget=budget)
    assert answer.status_code == 201, answer.text
    study = f"/api/v1/studies/{answer.json()['id']}"
    until(lambda: client.get(study).json()["state"] in ("completed", "failed"), "its end")
    seen = set()
    for trial in client.get(f"{study}/trials").json()["items"]:
        assert trial["state"] == "complete", trial["reason"]
        path = f"/api/v1/trials/{trial['id']}/log"
        got = until(lambda: client.get(path).json()["text"].partition("GOT")[2], "its log")  # noqa: B023  (called at once)
        params, variable = json.loads(got.splitlines()[0])
        assert params["text"] == variable
        seen.add(variable)
    assert seen == set(INJECTED)
    assert not list(worker.rglob("hacked"))


@pytest.mark.parametrize(
    ("task", "parameter", "file"),
    [
        ("digits", "checkpoint", "w.safetensors"),
        ("digits", "checkpoint", "w.pt"),
        ("images", "path", "x.npz"),
        ("tabular", "path", "x.parquet"),
        ("tabular", "path", "x.csv"),
    ],
)
def test_a_pickle_where_data_belong_is_never_opened(
    server: Server, client: httpx.Client, tmp_path: Path, task: str, parameter: str, file: str
) -> None:
    path = tmp_path / "server" / file
    path.write_bytes(pickle.dumps(Evil(tmp_path / "hacked")))
    params = {parameter: str(path), **({"target": "y"} if task == "tabular" else {})}
    answer = submit(client, task={"name": task, "params": params})
    assert answer.status_code in (201, 422)
    assert not (tmp_path / "hacked").exists()
