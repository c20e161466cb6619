"""The long-running commands as processes of their own: real servers, workers and signals."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.installation import PATIENCE_SECONDS, steady_port
from tuner.cli import main
from tuner.transport import Transport

STUDY = """\
name: {name}
task: {{name: digits}}
space:
  optimizer: adamw
  batch_size: 64
  lr: {{type: float, low: 1.0e-4, high: 1.0e-2, log: true}}
sampler: {{name: random, seed: 0}}
pruner: {{name: none}}
budget: {{trials: {trials}, epochs: {epochs}}}
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TUNER_")}
    clean.pop("CI", None)
    return {**clean, "OMP_NUM_THREADS": "1", "TUNER_HOME": str(tmp_path / "home")}


def write(folder: Path, **values: Any) -> Path:
    file = folder / f"{values['name']}.yaml"
    file.write_text(STUDY.format(**values))
    return file


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.05)
    return check()


@contextmanager
def started(
    arguments: list[str],
    environment: dict[str, str],
    log: Path,
    program: Sequence[str] = ("-m", "tuner"),
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the background; killed at the end if it is still there."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            env=environment,
            stdout=sink,
            stderr=sink,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def address(log: Path, server: subprocess.Popen[bytes]) -> str:
    """Where the server says it is."""
    found: list[str] = []

    def said() -> bool:
        found[:] = re.findall(r"tuner is at (http://\S+)", log.read_text())
        return bool(found) or server.poll() is not None

    assert eventually(said), log.read_text()
    assert found, log.read_text()
    return found[0]


def states(home: Path) -> list[str]:
    with sqlite3.connect(f"file:{home / 'tuner.sqlite'}?mode=ro", uri=True) as connection:
        return [row[0] for row in connection.execute("SELECT state FROM trials ORDER BY number")]


def test_a_server_with_a_worker_runs_a_study_and_stops_in_order(
    environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    serve = ["serve", "--port", "0", "--no-auth", "--workers", "1"]
    with started(serve, environment, log) as server:
        url = address(log, server)
        study = write(tmp_path, name="small", trials=4, epochs=2)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tuner",
                "submit",
                str(study),
                "--watch",
                "--json",
                "--url",
                url,
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr + log.read_text()
        answer = json.loads(done.stdout)
        assert (answer["state"], answer["counts"]["complete"]) == ("completed", 4)
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_SECONDS) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert states(tmp_path / "home") == ["complete"] * 4


def test_no_worker_outlives_a_server_that_was_killed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    serve = ["serve", "--port", "0", "--no-auth", "--workers", "1"]
    with started(serve, environment, log) as server:
        gateway = Transport(address(log, server))
        pids: list[int] = []

        def registered() -> bool:
            workers = gateway.call("GET", "workers").json()["items"]
            pids[:] = [worker["device"]["pid"] for worker in workers]
            return bool(pids)

        assert eventually(registered), log.read_text()
        assert alive(pids[0])
        server.kill()
        assert eventually(lambda: not alive(pids[0])), log.read_text()
        gateway.close()


def test_a_demo_tunes_tells_and_finds_a_free_name_the_next_time(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The first tunes the example, whose own name stays free for whoever submits it."""
    file, home = write(tmp_path, name="demo", trials=3, epochs=2), tmp_path / "home"
    options = ["--home", str(home), "--port", "0", "--workers", "1", "--json"]
    for arguments, name, shown in (([], "demo", 5), ([str(file)], "demo-2", 3)):
        done = subprocess.run(
            [sys.executable, "-m", "tuner", "demo", *arguments, *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        study, best = told["study"], told["best"]
        assert (study["name"], study["state"]) == (name, "completed")
        assert len(best) == min(5, study["counts"]["complete"]) == shown
        values = [trial["value"] for trial in best]
        assert values == sorted(values)
        assert told["advice"]["config"]["batch_size"] == 2 * best[0]["config"]["batch_size"]
    assert "Traceback" not in (home / "demo.log").read_text()
    with sqlite3.connect(f"file:{home / 'tuner.sqlite'}?mode=ro", uri=True) as connection:
        assert connection.execute("SELECT name, state FROM studies ORDER BY id").fetchall() == [
            ("demo", "completed"),
            ("demo-2", "completed"),
        ]


def test_a_server_honours_its_environment(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    told = {"TUNER_MAX_BODY_BYTES": "2048", "TUNER_LOG_JSON": "true"}
    serve = ["serve", "--port", "0", "--no-auth", "--workers", "1"]
    with started(serve, environment | told, log) as server:
        url = address(log, server)
        for size, status in ((1000, 422), (3000, 413)):
            body = json.dumps({"name": "x" * size})
            answer = httpx.post(f"{url}/api/v1/studies", content=body, trust_env=False)
            assert answer.status_code == status, answer.text
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_SECONDS) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert lines
    assert all({"time", "level", "message"} <= set(line) for line in lines)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_run_is_interrupted_and_goes_on(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = tmp_path / "log"
    study = write(tmp_path, name="run", trials=2, epochs=600)
    home = tmp_path / "home"
    with started(["run", str(study)], environment, log) as process:
        assert eventually(lambda: (home / "tuner.sqlite").exists() and "running" in safely(home)), (
            log.read_text()
        )
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130, log.read_text()
    assert "goes on from here" in log.read_text()
    assert "Traceback" not in log.read_text()
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "run", str(study), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["study"]["state"], answer["study"]["counts"]["complete"]) == ("completed", 2)
    changed = write(tmp_path, name="run", trials=3, epochs=600)
    monkeypatch.setenv("TUNER_HOME", str(home))
    assert main(["run", str(changed)]) == 2
    assert "choose another name" in capsys.readouterr().err


def safely(home: Path) -> list[str]:
    """The states of trials, or none while the tables are being made."""
    try:
        return states(home)
    except sqlite3.OperationalError:
        return []


def test_a_worker_waits_for_its_server(environment: dict[str, str], tmp_path: Path) -> None:
    port = steady_port()
    worker = ["worker", "--device", "cpu", "--url", f"http://127.0.0.1:{port}"]
    serve = ["serve", "--port", str(port), "--no-auth", "--workers", "0"]
    log = tmp_path / "worker.log"
    with started(worker, environment, log) as early:
        assert eventually(lambda: "waiting for 300 s at most" in log.read_text()), log.read_text()
        with started(serve, environment, tmp_path / "log") as server:
            http = Transport(address(tmp_path / "log", server))
            assert eventually(lambda: bool(http.call("GET", "workers").json()["items"])), (
                log.read_text()
            )
            http.close()
            early.send_signal(signal.SIGTERM)
            assert early.wait(PATIENCE_SECONDS) == 0
    assert "waiting" not in log.read_text().replace("waiting for 300 s", "", 1)


OF_TWO_DEVICES = """
import sys
from tuner.cli import main, worker
from tuner.worker.places import Place
worker.places_of_worker = lambda device, sharing: [Place("cpu", sharing)] * 2
sys.exit(main(sys.argv[1:]))
"""


def test_a_worker_of_two_devices_is_two_processes_that_end_with_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """What cannot be had here is two GPUs, and so the places are given."""
    log = tmp_path / "worker.log"
    serve = ["serve", "--port", "0", "--workers", "0"]
    with started(serve, environment, tmp_path / "log") as server:
        url = address(tmp_path / "log", server)
        token = re.findall(r"export TUNER_TOKEN=(\S+)", (tmp_path / "log").read_text())[0]
        http = Transport(url, token)

        def pids() -> dict[str, int]:
            found = http.call("GET", "workers").json()["items"]
            assert all(worker["slots"] == 3 for worker in found)
            return {it["name"]: it["device"]["pid"] for it in found if alive(it["device"]["pid"])}

        command = ["worker", "--url", url, "--token", token, "--name", "here", "--slots", "3"]
        with started(command, environment, log, program=["-c", OF_TWO_DEVICES]) as worker:
            assert eventually(lambda: set(pids()) == {"here-0", "here-1"}), log.read_text()
            before = pids()
            words = [Path(f"/proc/{pid}/cmdline").read_text() for pid in before.values()]
            assert not any(token in line for line in words)
            os.kill(before["here-1"], signal.SIGKILL)
            assert eventually(lambda: pids().get("here-1") not in (None, before["here-1"]))
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(PATIENCE_SECONDS) == 0, log.read_text()
            assert pids() == {}
        assert "Traceback" not in log.read_text()
        http.close()


def test_a_worker_with_a_wrong_token_does_not_wait(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with started(
        ["serve", "--port", "0", "--workers", "0"], environment, tmp_path / "log"
    ) as server:
        url = address(tmp_path / "log", server)
        worker = ["worker", "--device", "cpu", "--url", url, "--token", "wrong"]
        with started(worker, environment, tmp_path / "worker.log") as wrong:
            assert wrong.wait(PATIENCE_SECONDS) == 1
        both = tmp_path / "both.log"
        worker = ["worker", "--url", url, "--token", "wrong"]
        with started(worker, environment, both, program=["-c", OF_TWO_DEVICES]) as wrong:
            assert wrong.wait(PATIENCE_SECONDS) == 1
    assert "token" in (tmp_path / "worker.log").read_text()
    (line,) = both.read_text().splitlines()
    assert "refuses the token" in line
