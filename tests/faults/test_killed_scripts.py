"""Killed in the middle of a script: no process of it is left, and its trial goes on elsewhere."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.installation import PATIENCE_SECONDS, Installation, installation, until
from tests.tuner.worker.scripts.processes import alive

SCRIPT = """
import json, os, subprocess, time
import tuner.trial

trial = tuner.trial.current()
state = trial.checkpoint_dir / "state.json"
start = json.loads(state.read_text()) if state.exists() else 0
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("PIDS", os.getpid(), child.pid, flush=True)
for step in range(start + 1, trial.max_step + 1):
    state.write_text(json.dumps(step))
    print("step", step, "attempt", trial.attempt, flush=True)
    if trial.report(step, loss=1 / step):
        break
    if step == 2 and trial.attempt == 1 and not os.path.exists("no-hang"):
        time.sleep(1000)
"""
FILE = """
[scripts.hanging]
command = ["python", "script.py"]
grace_seconds = 1
"""


def prepare(here: Installation) -> None:
    (here.home / "script.py").write_text(SCRIPT)
    (here.home / "worker.toml").write_text(FILE)


def submit(here: Installation) -> int:
    return here.submit(
        name="hanging",
        task="hanging",
        objective={"metric": "loss"},
        space={"lr": {"type": "float", "low": 0.1, "high": 1}},
        budget={"trials": 1, "epochs": 4},
    )


def pids(here: Installation, trial: int) -> list[int]:
    """The processes of a script, once it has said which they are and hangs."""

    def said() -> list[int]:
        text = here.http.get(f"trials/{trial}/log").json()["text"]
        if "step 2" not in text:
            return []
        return [int(word) for word in text.partition("PIDS ")[2].splitlines()[0].split()]

    found: list[int] = until(said, "the script to hang")
    return found


def test_a_killed_worker_leaves_no_script_and_the_next_attempt_goes_on(tmp_path: Path) -> None:
    with installation(tmp_path) as here:
        prepare(here)
        here.serve()
        first = here.worker()
        until(lambda: here.http.get("tasks").text.count('"hanging"'), "the worker to register")
        study = submit(here)
        (trial,) = until(lambda: here.trials(study), "a trial")
        running = pids(here, trial["id"])
        assert all(alive(pid) for pid in running)
        # The script keeps a step before it reports it.
        until(lambda: here.steps(trial["id"]) == [1, 2], "what it measured to be stored")
        first.send_signal(signal.SIGKILL)
        first.wait()
        until(lambda: not any(alive(pid) for pid in running), "nothing of the script to be left")
        here.worker()
        until(lambda: here.study(study)["state"] == "completed", "the study to finish")
        (trial,) = here.trials(study)
        assert (trial["state"], trial["attempt"], trial["step"]) == ("complete", 2, 4)
        assert here.steps(trial["id"]) == [1, 2, 3, 4]
        log = here.http.get(f"trials/{trial['id']}/log").json()
        assert log["attempts"] == [1, 2]
        assert "step 3 attempt 2" in log["text"]
        assert "step 2 attempt 2" not in log["text"], "the checkpoint moved with the attempt"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_study_without_a_server_leaves_no_script_either(
    tmp_path: Path, how: signal.Signals
) -> None:
    with installation(tmp_path) as here:
        prepare(here)
        (tmp_path / "study.yaml").write_text(
            "name: alone\ntask: hanging\nspace: {lr: {type: float, low: 0.1, high: 1}}\n"
            "pruner: none\nsampler: random\nbudget: {trials: 1, epochs: 4}\n"
        )
        alone = here.start("run", "study.yaml", "--device", "cpu")
        # Its own processes are the only ones whose working directory is the home folder.
        running = until(lambda: _sleeping_in(tmp_path), "the script to run")
        alone.send_signal(how)
        alone.wait(timeout=PATIENCE_SECONDS)
        until(lambda: not any(alive(pid) for pid in running), "nothing to be left")
        until(lambda: not _in(tmp_path), "no worker process to be left")


def _in(folder: Path) -> list[int]:
    """Processes that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if path.resolve() == folder and alive(int(path.parent.name)):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _sleeping_in(folder: Path) -> list[int]:
    """All processes in a folder, once ``sleep`` is among them: the script has begun."""
    found = _in(folder)
    names = []
    for pid in found:
        try:
            names.append(Path(f"/proc/{pid}/comm").read_text().strip())
        except OSError:
            continue
    return found if "sleep" in names else []
