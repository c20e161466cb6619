import io
import json
import logging
import subprocess
import sys
from datetime import datetime

import pytest

from tuner import logs


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_lines_carry_what_is_bound_and_what_is_extra(stream: io.StringIO) -> None:
    logs.configure("info", as_json=True, stream=stream)
    log = logging.getLogger("tuner.test")
    with logs.bound(study=3):
        with logs.bound(trial=7):
            log.info("leased %d", 2, extra={"worker": "w", "_library": 1})
        log.warning("done")
    log.debug("not shown")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["study"], first["trial"], first["worker"]) == (3, 7, "w")
    assert "_library" not in first
    assert (first["level"], first["message"]) == ("info", "leased 2")
    assert second["study"] == 3
    assert "trial" not in second


def test_a_traceback_stays_on_its_line(stream: io.StringIO) -> None:
    logs.configure(as_json=True, stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("tuner.test").exception("it failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["traceback"]


def test_a_name_cannot_forge_a_line(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    forged = "x\n12:00:00 error tuner: all is lost"
    logging.getLogger("tuner.test").info("named %s", forged, extra={"study": forged})
    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if not line.startswith(" ")]) == 1


def test_a_line_tells_its_day(stream: io.StringIO) -> None:
    """A plain file has those of weeks."""
    logs.configure(stream=stream)
    before = datetime.now().astimezone().replace(microsecond=0)
    logging.getLogger("tuner.test").info("here")
    told = datetime.strptime(stream.getvalue()[:19], "%Y-%m-%d %H:%M:%S").astimezone()
    assert before <= told <= datetime.now().astimezone()


def test_configuring_twice_logs_once(stream: io.StringIO) -> None:
    logs.configure(stream=io.StringIO())
    logs.configure(stream=stream)
    logging.getLogger("uvicorn.error").info("started")
    assert stream.getvalue().count("started") == 1


def test_what_many_would_say_is_said_now_and_then_and_counted() -> None:
    clock = iter([0.0, 1.0, 4.9, 5.0, 5.1, 20.0])
    seldom = logs.Seldom(5.0, lambda: next(clock))
    assert [seldom.due("away") for _ in range(4)] == [0, None, None, 2]
    assert seldom.due("locked") == 0
    assert seldom.due("away") == 0


def test_no_line_of_optuna_is_beside_the_log() -> None:
    """It brings a handler and a level of its own, whenever it is loaded first."""
    script = """
import sys
from tuner import logs
logs.configure(as_json=True)
import optuna
storage = optuna.storages.InMemoryStorage()
storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "history")
optuna.logging.get_logger("optuna.samplers").warning("it falls back")
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    (line,) = (json.loads(line) for line in ran.stderr.splitlines())
    assert (line["logger"], line["message"]) == ("optuna.samplers", "it falls back")
