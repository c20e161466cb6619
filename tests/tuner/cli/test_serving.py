"""What a server shows at its start, and to whom."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import make_url

from tests.installation import PATIENCE_SECONDS
from tuner import logs
from tuner.cli.serving import bound, running, serving
from tuner.client import Client
from tuner.errors import InvalidInput, Unauthorized, Unavailable
from tuner.service import Context, tokens
from tuner.settings import Settings
from tuner.storage import migrate


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.read(
        home=tmp_path, database_url=f"sqlite:///{tmp_path}/t.sqlite", port=0, workers=0
    )


def started(settings: Settings, capsys: pytest.CaptureFixture[str], *, auth: bool = True) -> str:
    """What one start prints, after a look at what an unknown client may do."""
    with serving(settings, auth=auth, stop=threading.Event()) as url:
        printed = capsys.readouterr().err
        shown = re.search(r"export TUNER_TOKEN=(\S+)", printed)
        with Client(url, shown[1] if shown else None) as client:
            if auth and not shown:
                with pytest.raises(Unauthorized):
                    list(client.studies())
            else:
                assert list(client.studies()) == []
        return printed


def test_what_a_server_keeps_is_for_its_user_alone(settings: Settings, tmp_path: Path) -> None:
    """The database holds what webhooks sign with. What is there already stays as it is."""
    home = tmp_path / "home"
    file = home / "tuner.sqlite"
    private = {"home": home, "database_url": f"sqlite:///{file}"}
    before = os.umask(0o022)
    try:
        with serving(settings.model_copy(update=private), auth=True, stop=threading.Event()):
            found = {path.name: oct(path.stat().st_mode & 0o777) for path in home.iterdir()}
        assert oct(home.stat().st_mode & 0o777) == "0o700"
        assert found == dict.fromkeys(
            ("tuner.sqlite", "tuner.sqlite-shm", "tuner.sqlite-wal"), "0o600"
        )
        home.chmod(0o755)
        file.chmod(0o640)
        with serving(settings.model_copy(update=private), auth=True, stop=threading.Event()):
            pass
        assert (home.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o755, 0o640)
        elsewhere = {"home": tmp_path / "other"}
        with serving(settings.model_copy(update=elsewhere), auth=True, stop=threading.Event()):
            assert (tmp_path / "other").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_a_file_for_workers_is_refused_where_there_are_none(
    settings: Settings, tmp_path: Path
) -> None:
    with (
        pytest.raises(InvalidInput, match="config: is for workers"),
        serving(settings, auth=False, stop=threading.Event(), config=tmp_path / "worker.toml"),
    ):
        pass


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_it_waits_for_a_database_that_is_starting(
    settings: Settings, database_url: str, tmp_path: Path
) -> None:
    """Its socket is not there yet."""
    url = make_url(database_url)
    socket = tmp_path / "socket"
    late = url.set(query={**url.query, "host": str(socket)}).render_as_string(hide_password=False)
    stream = io.StringIO()
    logs.configure("info", as_json=False, stream=stream)

    def start() -> None:
        while "the database cannot be reached" not in stream.getvalue():
            time.sleep(0.01)
        socket.symlink_to(str(url.query["host"]))

    starting = threading.Thread(target=start)
    starting.start()
    waiting = settings.model_copy(update={"database_url": late, "wait_seconds": 600.0})
    with serving(waiting, auth=False, stop=threading.Event()) as here, Client(here) as client:
        assert list(client.studies()) == []
    starting.join()


def test_it_does_not_wait_for_a_database_for_ever(settings: Settings) -> None:
    nowhere = {"database_url": "postgresql://nobody@127.0.0.1:1/none", "wait_seconds": 0.0}
    with (
        pytest.raises(Unavailable),
        serving(settings.model_copy(update=nowhere), auth=False, stop=threading.Event()),
    ):
        pass


def test_the_first_start_alone_prints_a_token(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNER_TOKEN", raising=False)
    assert "TUNER_TOKEN" not in started(settings, capsys, auth=False)
    assert "the first start" in started(settings, capsys)
    assert "TUNER_TOKEN" not in started(settings, capsys)


def test_it_starts_though_the_name_of_the_first_token_is_taken(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNER_TOKEN", raising=False)
    migrate.prepare(settings.database_url)
    context = Context.open(settings.database_url)
    tokens.create_token(context, "admin", ["read"])
    context.close()
    printed = started(settings, capsys)
    assert "tuner token create" in printed


HANGS = """
import threading, uvicorn
from fastapi import FastAPI
from tuner.cli import serving
from tuner.service import background

serving.END_SECONDS = 2.0
app, entered = FastAPI(), threading.Event()

@app.get("/")
def hang():
    entered.set()
    threading.Event().wait()

def ask():
    import httpx
    httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=None)

listener = serving.bound("127.0.0.1", 0)
server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
chore = background.Repeated("chore", threading.Event().wait, 0.01)
background.END_SECONDS = 0.5
with background.running(chore), serving.running(server, listener, threading.Event()):
    threading.Thread(target=ask, daemon=True).start()
    entered.wait()
print("left", flush=True)
"""


def test_what_hangs_keeps_no_process_alive() -> None:
    """A request and a chore that wait for what will never come."""
    ended = subprocess.run(
        [sys.executable, "-c", HANGS],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "left\n"


def test_a_server_that_ends_by_itself_is_an_error() -> None:
    server = uvicorn.Server(uvicorn.Config(FastAPI(), log_config=None))
    server.should_exit = True
    stop = threading.Event()
    with (
        pytest.raises(Unavailable, match="ended by itself"),
        running(server, bound("127.0.0.1", 0), stop),
    ):
        stop.wait(60)
