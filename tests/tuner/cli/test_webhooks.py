"""``tuner webhook`` against a real server and a real receiver."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.receiver import Receiver, receiving
from tuner.cli import main
from tuner.cli.serving import serving
from tuner.settings import Settings


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(autouse=True)
def _server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNER_TOKEN", raising=False)
    monkeypatch.setenv("TUNER_WEBHOOK_HOSTS", "127.0.0.1, hooks.internal")
    settings = Settings.read(
        home=tmp_path, database_url=f"sqlite:///{tmp_path}/t.sqlite", port=0, workers=0
    )
    assert settings.webhook_hosts == ("127.0.0.1", "hooks.internal")
    with serving(settings, auth=False, stop=threading.Event()) as url:
        monkeypatch.setenv("TUNER_URL", url)
        yield


def test_a_webhook_lives_and_ends(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    create = ["webhook", "create", receiver.url, "--name", "chat", "--event", "study.failed"]
    assert main([*create, "--tag", "mine"]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("whsec_")
    assert main(create) == 1
    assert "chat" in capsys.readouterr().err
    assert main(["webhook", "list", "--json"]) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads(printed)
    assert (row["name"], row["events"], row["tag"]) == ("chat", ["study.failed"], "mine")
    assert secret not in printed
    assert main(["webhook", "test", "chat"]) == 0
    assert "answered 200" in capsys.readouterr().out
    receiver.answers = [500] * 20
    assert main(["webhook", "test", "chat"]) == 1
    assert "answered 500" in capsys.readouterr().err
    assert main(["webhook", "log", "chat", "--json"]) == 0
    states = [(d["state"], d["status"]) for d in json.loads(capsys.readouterr().out)]
    assert states == [("waiting", 500), ("delivered", 200)]
    assert main(["webhook", "delete", str(row["id"])]) == 0
    assert main(["webhook", "delete", "chat"]) == 1
    assert "there is no webhook chat" in capsys.readouterr().err


def test_wrong_input_names_the_field(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, field in (
        (["https://127.0.0.2/"], "url"),
        (["ftp://hooks.internal/"], "url"),
        (["http://127.0.0.1/", "--event", "study.born"], "events[0]"),
        (["http://127.0.0.1/", "--tag", ""], "tag"),
    ):
        assert main(["webhook", "create", *arguments, "--name", "x"]) == 2
        assert f"tuner: {field}: " in capsys.readouterr().err
