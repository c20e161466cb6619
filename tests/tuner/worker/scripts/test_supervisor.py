"""The supervisor as a process of its own: nothing of a run is left, whatever the script does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.installation import PATIENCE_SECONDS, until
from tests.tuner.worker.scripts.processes import alive
from tuner.worker.scripts import supervisor
from tuner.worker.scripts.output import Output

NOTE = """
import os, signal, subprocess, sys, time
def note(name):
    with open(name + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(name + ".part", name)
"""


@dataclass
class Watched:
    """A supervisor that runs, and what it leaves."""

    process: subprocess.Popen[bytes]
    folder: Path
    output: Output
    pids: list[int] = field(default_factory=list)

    def ended(self) -> dict[str, Any]:
        assert self.process.wait(timeout=PATIENCE_SECONDS) == 0
        found: dict[str, Any] = json.loads((self.folder / supervisor.ENDED).read_text())
        return found

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def text(self) -> str:
        text = ""
        while pieces := self.output.news(final=True):
            text += "".join(piece.text for piece in pieces)
            self.output.told(pieces[-1].start + pieces[-1].size)
        return text

    def said(self, name: str) -> int:
        """A number that the script wrote into a file."""
        path = self.folder / name
        return int(until(lambda: path.exists() and path.read_text(), f"{name} to be written"))


Start = Callable[..., Watched]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Watched] = []

    def begin(script: str, *, worker: int | None = None, keep: int = 4096, **told: Any) -> Watched:
        output = Output(tmp_path, keep)
        given = {
            "command": [sys.executable, "-u", "-c", NOTE + textwrap.dedent(script)],
            "directory": str(tmp_path),
            "folder": str(tmp_path),
            "segment": output.segment,
            "tail": output.tail,
            "grace_seconds": 0.3,
            "time_limit_seconds": None,
            "worker": os.getpid() if worker is None else worker,
            **told,
        }
        process = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, json.dumps(given)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(Watched(process, tmp_path, output))
        return started[-1]

    yield begin
    for watched in started:
        watched.stop()
        watched.process.wait(timeout=PATIENCE_SECONDS)


def test_output_and_exit_code_are_kept(start: Start) -> None:
    watched = start("import sys; print('out'); sys.stderr.write('err'); sys.exit(3)")
    assert watched.ended() == {"code": 3, "late": False}
    text = watched.text()
    assert text.startswith(f"$ {sys.executable} -u -c ")
    assert text.endswith("out\nerr")
    assert watched.output.last_line() == "err"


def test_a_full_disk_costs_the_output_and_not_the_run(start: Start, tmp_path: Path) -> None:
    (tmp_path / "log.0").symlink_to("/dev/full")
    watched = start("print('lost'); print('too'); sys.exit(3)")
    assert watched.ended() == {"code": 3, "late": False}


def test_output_that_was_lost_is_noted_once(tmp_path: Path) -> None:
    (tmp_path / "log.1").symlink_to("/dev/full")
    log = supervisor.Log(tmp_path, 250, 3)
    log.write(b"x" * 250)
    log.write(b"lost")
    log.write(b"too")
    (tmp_path / "log.1").unlink()
    log.write(b"again")
    log.write(b"!")
    log.close()
    output = Output(tmp_path, 1000)
    text = "".join(piece.text for piece in output.news(final=True))
    assert text.lstrip("x") == "\n[output was lost: No space left on device]\nagain!"


def test_nothing_outlives_a_supervisor_that_fails(tmp_path: Path) -> None:
    code = """
        import sys
        from tuner.worker.scripts import supervisor
        def fail(*_):
            raise RuntimeError("a bug")
        supervisor.Supervisor._copy = fail
        supervisor.main()
    """
    script = "note('main'); os.write(1, b'hello'); time.sleep(600)"
    told = {
        "command": [sys.executable, "-u", "-c", NOTE + script],
        "directory": str(tmp_path),
        "folder": str(tmp_path),
        "segment": 1024,
        "tail": 3,
        "grace_seconds": 600.0,
        "time_limit_seconds": None,
        "worker": os.getpid(),
    }
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), json.dumps(told)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "a bug" in process.stderr.read()
    assert process.returncode == 1
    assert not alive(int((tmp_path / "main").read_text()))


def test_a_signal_is_told_from_a_code(start: Start) -> None:
    watched = start("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert watched.ended()["code"] == -11


def test_a_program_that_is_not_there(start: Start) -> None:
    watched = start("", command=["/no/such/program"])
    assert "No such file" in watched.ended()["error"]
    assert "cannot be started" in watched.text()


def test_a_time_limit_ends_it(start: Start) -> None:
    watched = start("import time; time.sleep(1000)", time_limit_seconds=0.3)
    assert watched.ended() == {"code": -15, "late": True}
    assert "the time limit of 0.3 s is over" in watched.text()


def test_a_closed_pipe_stops_it_and_it_may_save_first(start: Start) -> None:
    """What a worker does to stop a run, and what the kernel does when a worker is killed."""
    watched = start(
        """
        def saved(*_):
            print("saved")
            sys.exit(0)
        signal.signal(signal.SIGTERM, saved)
        note("ready")
        time.sleep(1000)
        """,
        grace_seconds=30,
    )
    watched.said("ready")
    watched.stop()
    assert watched.ended() == {"code": 0, "late": False}
    assert watched.text().endswith("saved\n")


def test_who_ignores_sigterm_is_killed_with_all_children(start: Start) -> None:
    watched = start(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            note("child")
        else:
            note("parent")
        time.sleep(1000)
        """
    )
    pids = [watched.said("child"), watched.said("parent")]
    watched.stop()
    assert watched.ended()["code"] == -9
    assert "[killed: it did not end within 0.3 s]" in watched.text()
    assert not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans come to the supervisor on Linux")
@pytest.mark.parametrize("how", ["the script ends", "the worker ends"])
def test_a_daemon_that_left_group_and_output_is_found(start: Start, how: str) -> None:
    """A launcher such as torchrun puts each of its processes into a session of its own."""
    watched = start(
        f"""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for i in (0, 1, 2):
                    os.close(i)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                note("daemon")
                time.sleep(1000)
            os._exit(0)
        while not os.path.exists("daemon"):
            time.sleep(0.01)
        time.sleep({0 if how == "the script ends" else 1000})
        """
    )
    daemon = watched.said("daemon")
    if how == "the worker ends":
        watched.stop()
    watched.ended()
    assert not alive(daemon)


def test_a_killed_supervisor_needs_no_grace_from_its_own_signals(start: Start) -> None:
    """SIGTERM to the supervisor itself, as a service manager sends to all, stops the run."""
    watched = start("note('ready')\ntime.sleep(1000)")
    pid = watched.said("ready")
    watched.process.terminate()
    assert watched.ended()["code"] == -15
    assert not alive(pid)


def test_gigabytes_are_bounded(start: Start) -> None:
    """Only the beginning and the end of what is printed are ever on the disk."""
    keep = 64 * 1024
    watched = start(
        """
        import sys
        line = b"x" * 1023 + b"\\n"
        sys.stdout.buffer.write(b"first\\n")
        for _ in range(200):
            sys.stdout.buffer.write(line * 1024)
        sys.stdout.buffer.write(b"last\\n")
        """,
        keep=keep,
    )
    assert watched.ended()["code"] == 0
    stored = sum(path.stat().st_size for path in watched.folder.glob("log.*"))
    assert stored <= keep + keep // 4
    pieces = []
    while more := watched.output.news(final=True):
        pieces += more
        watched.output.told(more[-1].start + more[-1].size)
    assert "first\n" in pieces[0].text
    assert pieces[-1].text.endswith("x\nlast\n")
    assert pieces[-1].start + pieces[-1].size > 200 * 2**20
    assert sum(piece.size for piece in pieces) == stored


def test_a_folder_that_nobody_will_read_is_removed(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    watched = start("print('nobody')", folder=str(folder), worker=1)
    assert watched.process.wait(timeout=PATIENCE_SECONDS) == 0
    assert not folder.exists()


def test_descendants_of_descendants_are_found() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        found = until(
            lambda: (pids := supervisor.descendants()) and len(pids) >= 2 and pids, "a grandchild"
        )
        assert process.pid in found
        assert process.stdin is not None
        process.stdin.write(b"\n")


def test_it_loads_nothing_heavy() -> None:
    """It starts with every trial."""
    code = f"import sys, runpy; runpy.run_path({supervisor.__file__!r}); print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"tuner", "torch", "numpy", "pydantic", "asyncio"} & set(told)
