import sys
import threading
from pathlib import Path

import pytest

from tests.installation import until
from tuner.cli import children
from tuner.cli.children import Children

CALM = "import sys, signal; signal.signal(15, lambda *_: sys.exit(0)); sys.stdin.read()"
STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
)


def test_children_run_and_stop() -> None:
    running = Children([[sys.executable, "-c", CALM]] * 2)
    assert len(running.pids) == 2
    assert not running.ended
    running.stop()
    assert running.pids == []


def test_a_child_that_dies_is_started_again_a_bounded_number_of_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "RESTARTS", 2)
    log = tmp_path / "starts"
    program = f"open({str(log)!r}, 'a').write('x'); raise SystemExit(3)"
    running = Children([[sys.executable, "-c", program]], pause_seconds=0.01)
    until(lambda: running.ended, "the last start to have failed")
    assert running.failed
    assert log.read_text() == "xxx"
    running.stop()


def test_a_child_that_has_worked_for_a_while_begins_with_all_its_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "RESTARTS", 1)
    monkeypatch.setattr(children, "SETTLED_SECONDS", 0.0)
    log = tmp_path / "starts"
    program = f"open({str(log)!r}, 'a').write('x'); raise SystemExit(3)"
    running = Children([[sys.executable, "-c", program]], pause_seconds=0.01)
    until(lambda: log.exists() and len(log.read_text()) > 3, "more starts than in a row")
    assert not running.ended
    running.stop()


def test_a_child_that_ends_in_order_stays_away(tmp_path: Path) -> None:
    log = tmp_path / "starts"
    program = f"open({str(log)!r}, 'a').write('x')"
    running = Children([[sys.executable, "-c", program]], pause_seconds=0.01)
    until(lambda: running.ended, "the end to be noticed")
    assert not running.failed
    assert log.read_text() == "x"
    running.stop()


def test_a_child_whose_token_is_refused_is_not_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "starts"
    program = f"open({str(log)!r}, 'a').write('x'); raise SystemExit({children.REFUSED})"
    running = Children([[sys.executable, "-c", program]] * 2, pause_seconds=0.01)
    until(lambda: running.ended, "both refusals to be noticed")
    assert running.refused
    assert running.failed
    assert log.read_text() == "xx"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    running.stop()


def test_a_child_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = STUBBORN.replace("print(1, flush=True)", f"open({str(ready)!r}, 'w').close()")
    running = Children([[sys.executable, "-c", program]])
    until(ready.exists, "the child to be deaf")
    running.stop(grace_seconds=0.2)
    assert running.pids == []


def test_a_child_ends_when_its_parent_does(tmp_path: Path) -> None:
    done = tmp_path / "done"
    program = (
        "import threading; from tuner.cli.children import when_parent_ends\n"
        "stop = threading.Event(); when_parent_ends(stop)\n"
        f"stop.wait(300) and open({str(done)!r}, 'w').close()"
    )
    running = Children([[sys.executable, "-c", program]])
    pipe = running._children[0].process.stdin
    assert pipe is not None
    pipe.close()  # as the kernel does for a parent that was killed
    until(done.exists, "the child to notice")
    running.stop()


def test_the_environment_is_passed_to_each_command(tmp_path: Path) -> None:
    program = (
        "import os, sys; open(sys.argv[1], 'w').write(os.environ['FLAVOUR']); sys.stdin.read()"
    )
    commands = [[sys.executable, "-c", program, str(tmp_path / name)] for name in ("0", "1")]
    running = Children(commands, environment={"FLAVOUR": "sour"})
    until(lambda: len([p for p in tmp_path.iterdir() if p.read_text()]) == 2, "both to write")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    running.stop()
    assert threading.active_count() < 20
