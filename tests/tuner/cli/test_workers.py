"""``tuner workers`` and ``tuner audit`` against a real server; the pools are told of by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tuner.cli import main
from tuner.cli.serving import serving
from tuner.protocol import PoolBeat, WorkerHello
from tuner.settings import Settings
from tuner.transport import Transport
from tuner.worker.http import HttpGateway


@pytest.fixture
def transport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNER_TOKEN", raising=False)
    settings = Settings.read(
        home=tmp_path, database_url=f"sqlite:///{tmp_path}/t.sqlite", port=0, workers=0
    )
    with serving(settings, auth=False, stop=threading.Event()) as url:
        monkeypatch.setenv("TUNER_URL", url)
        monkeypatch.setenv("TUNER_DATABASE_URL", settings.database_url)
        connected = Transport(url)
        yield connected
        connected.close()


def present(transport: Transport, pool: str) -> None:
    beat = PoolBeat(name=pool, driver="d", first=True, running=2, fits=4)
    transport.call("POST", "pools", content=beat.model_dump_json())


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_workers_are_listed_and_drained(
    transport: Transport, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = HttpGateway(transport)
    first = gateway.register(WorkerHello(name="cpu-1", tasks=["digits"], slots=3)).worker_id
    gone = gateway.register(WorkerHello(name="cpu-2", tasks=["digits"])).worker_id
    gateway.leave(gone)
    assert [w["name"] for w in printed(capsys, "workers")["workers"]] == ["cpu-1"]
    assert printed(capsys, "workers", "drain", "cpu-1")["state"] == "draining"
    assert printed(capsys, "workers", "drain", str(first))["state"] == "draining"
    assert main(["workers"]) == 0
    assert "draining" in capsys.readouterr().out
    assert main(["workers", "drain", "nobody"]) == 1
    assert "there is no worker nobody" in capsys.readouterr().err


def test_a_pool_is_scaled_by_its_name_where_there_are_several(
    transport: Transport, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["workers", "scale", "3"]) == 1
    assert "tuner worker --engine ray" in capsys.readouterr().err
    present(transport, "ray")
    assert printed(capsys, "workers", "scale", "3")["wanted"] == 3
    assert printed(capsys, "workers")["pools"][0]["running"] == 2
    assert main(["workers"]) == 0
    assert "room for" in capsys.readouterr().out
    present(transport, "farm")
    assert main(["workers", "scale", "3"]) == 2
    assert "pool: there are several, name one of farm, ray" in capsys.readouterr().err
    assert printed(capsys, "workers", "scale", "0", "--pool", "farm")["wanted"] == 0
    assert printed(capsys, "workers", "scale", "auto", "--pool", "ray")["wanted"] is None
    assert main(["workers", "scale", "3", "--pool", "none"]) == 1
    capsys.readouterr()
    for wrong in ("-1", "many", "1.5", "70000"):
        assert main(["workers", "scale", "--pool", "ray", "--", wrong]) == 2
        assert capsys.readouterr().err.startswith("tuner: ")


def test_the_audit_trail_names_who_typed(
    transport: Transport,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["token", "create", "--name", "ci", "--scope", "read"]) == 0
    assert main(["token", "revoke", "ci"]) == 0
    present(transport, "ray")
    capsys.readouterr()
    trail = printed(capsys, "audit")
    assert [e["kind"] for e in trail] == ["pool.created", "token.revoked", "token.created"]
    assert trail[0]["actor"] == "anonymous"
    assert all(e["actor"].startswith("command line (") for e in trail[1:])
    assert len(printed(capsys, "audit", "--limit", "1")) == 1
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["audit"]) == 0
    assert "token.revoked" in capsys.readouterr().out
