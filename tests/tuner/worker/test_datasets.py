"""Uploaded datasets come to workers by their checksum: over HTTP, once, whole or not at all."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Server, running
from tuner import service
from tuner.errors import InvalidInput, NotFound, Unavailable
from tuner.service import datasets
from tuner.service.datasets import DatasetView
from tuner.spec import StudySpec
from tuner.transport import Transport
from tuner.worker.datasets import DatasetCache
from tuner.worker.direct import DirectGateway
from tuner.worker.http import HttpGateway
from tuner.worker.loop import run_worker

CSV = "a,b,y\n" + "".join(f"{i / 300},{i % 3},{'yes' if i % 3 else 'no'}\n" for i in range(300))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    with running(tmp_path / "server") as found:
        yield found


@pytest.fixture
def table(server: Server) -> DatasetView:
    return datasets.add_dataset(server.context, "flags", io.BytesIO(CSV.encode()), format="csv")


@pytest.fixture
def gateway(server: Server) -> Iterator[HttpGateway]:
    """What a worker has: a token for its own scope, and no other."""
    opened = HttpGateway(Transport(server.url, server.token("work")))
    yield opened
    opened.close()


def named(table: DatasetView) -> dict[str, Any]:
    return {"path": f"{table.reference}@{table.sha256}.csv", "target": "y"}


def test_it_is_fetched_once(gateway: HttpGateway, table: DatasetView, tmp_path: Path) -> None:
    cache = DatasetCache(tmp_path / "mine", gateway)
    found = cache.located(named(table))
    assert found["target"] == "y"
    path = Path(found["path"])
    assert path == tmp_path / "mine" / f"{table.sha256}.csv"
    assert path.read_text() == CSV
    gateway.close()
    assert cache.located(named(table)) == found


def test_a_worker_in_the_servers_home_fetches_nothing(server: Server, table: DatasetView) -> None:
    home = server.context.settings.home

    class Deaf(DirectGateway):
        def fetch(self, sha256: str, target: Path) -> None:
            raise AssertionError("it is there")

    cache = DatasetCache(home / "datasets", Deaf(server.context))
    assert Path(cache.located(named(table))["path"]).read_text() == CSV


def test_a_process_beside_the_server_copies(
    server: Server, table: DatasetView, tmp_path: Path
) -> None:
    cache = DatasetCache(tmp_path / "mine", DirectGateway(server.context))
    assert Path(cache.located(named(table))["path"]).read_text() == CSV


def test_what_is_not_what_was_asked_for_is_not_kept(
    server: Server, table: DatasetView, tmp_path: Path
) -> None:
    class Lying(DirectGateway):
        def fetch(self, sha256: str, target: Path) -> None:
            super().fetch(sha256, target)
            with target.open("ab") as file:
                file.write(b"0,0,no\n")

    cache = DatasetCache(tmp_path / "mine", Lying(server.context))
    with pytest.raises(InvalidInput, match="checksum"):
        cache.located(named(table))
    assert list((tmp_path / "mine").iterdir()) == []


def test_what_is_gone_or_out_of_reach_is_said(
    server: Server, gateway: HttpGateway, table: DatasetView, tmp_path: Path
) -> None:
    cache = DatasetCache(tmp_path / "mine", gateway)
    datasets.delete_dataset(server.context, "flags")
    with pytest.raises(NotFound):
        cache.located(named(table))
    nobody = HttpGateway(Transport("http://127.0.0.1:9", attempts=1))
    with pytest.raises(Unavailable):
        DatasetCache(tmp_path / "mine", nobody).located(named(table))
    nobody.close()
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_worker_elsewhere_trains_on_it(
    server: Server, gateway: HttpGateway, table: DatasetView, tmp_path: Path
) -> None:
    spec = {
        "name": "flags",
        "task": {"name": "tabular", "params": {"path": "dataset:flags", "target": "y"}},
        "space": {"lr": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}},
        "sampler": "random",
        "pruner": "none",
        "budget": {"trials": 2, "epochs": 2},
    }
    study = service.submit(server.context, StudySpec.parse(spec))
    stop = threading.Event()

    def watch() -> None:
        for _ in range(1200):
            if service.show_study(server.context, study.id).over or stop.wait(0.1):
                break
        stop.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    run_worker(gateway, name="far", device="cpu", home=tmp_path / "worker", stop=stop)
    watcher.join()
    shown = service.show_study(server.context, study.id)
    reasons = [t.reason for t in service.list_trials(server.context, study.id).items]
    assert (shown.state, shown.counts.complete) == ("completed", 2), reasons
    assert (tmp_path / "worker" / "datasets" / f"{table.sha256}.csv").exists()
