"""One's own models through the shell: a task and a script that the server itself does not have."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.installation import PATIENCE_SECONDS, Installation, installation, until

EXAMPLES = Path(__file__).parents[3] / "examples"
SCRIPT = """
import time
import tuner.trial

trial = tuner.trial.current()
for step in range(1, trial.max_step + 1):
    print(f"step {step} with {trial.params['lr']:.3f}", flush=True)
    if trial.report(step, loss=trial.params["lr"] / step):
        break
print("the end", flush=True)
"""
STUDY = """
name: bowl
task: bowl
space: {lr: {type: float, low: 0.1, high: 1.0}}
sampler: random
pruner: none
budget: {trials: 2, epochs: 3}
"""


def tuner(here: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuner", *arguments],
        cwd=here.home,
        env=here.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def known(here: Installation, task: str) -> bool:
    return task in [entry["name"] for entry in here.http.get("tasks").json()]


def test_a_task_that_only_the_worker_has(tmp_path: Path) -> None:
    with installation(tmp_path) as here:
        here.serve()
        refused = here.http.post("studies", json={"name": "moons", "task": "moons"})
        assert (refused.status_code, refused.json()["field"]) == (422, "task.name")
        shutil.copy(EXAMPLES / "moons.py", tmp_path)
        here.start("worker", "--device", "cpu", "--slots", "2", "--task", "moons:Moons")
        until(lambda: known(here, "moons"), "the worker to register")
        moons = {
            "name": "moons",
            "task": {"name": "moons"},
            "objective": {"metric": "val_accuracy", "direction": "maximize"},
            "space": {"lr": 0.01, "model.hidden": {"type": "categorical", "choices": [4, 8]}},
            "sampler": {"name": "grid"},
            "budget": {"trials": 2, "epochs": 2},
        }
        for change, field in (
            ({"space": {"model.hidden": 4096}}, "space.model.hidden"),
            ({"space": {"model.width": 8}}, "space.model.width"),
            ({"objective": {"metric": "val_f1"}}, "objective.metric"),
        ):
            refused = here.http.post("studies", json={**moons, **change})
            assert (refused.status_code, refused.json()["field"]) == (422, field)
        study = here.submit(**moons)
        until(lambda: here.study(study)["state"] == "completed", "the study to finish")
        assert {t["state"] for t in here.trials(study)} == {"complete"}


def test_scripts_of_the_home_folder_and_their_logs(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "worker.toml").write_text('[scripts.bowl]\ncommand = ["python", "script.py"]\n')
    (tmp_path / "study.yaml").write_text(STUDY)
    with installation(tmp_path) as here:
        here.serve(workers=1)
        assert known(here, "bowl"), "before its worker has started"
        done = tuner(here, "submit", "study.yaml", "--watch", "--json")
        assert done.returncode == 0, done.stderr
        study = json.loads(done.stdout)
        assert (study["state"], study["counts"]["complete"]) == ("completed", 2)
        followed = tuner(here, "log", "bowl", "1", "--follow")
        lines = followed.stdout.splitlines()
        assert lines[0] == "$ python script.py"
        assert [line.split()[1] for line in lines[1:4]] == ["1", "2", "3"]
        assert lines[4] == "the end"
        assert tuner(here, "log", "bowl", "1", "--tail", "1").stdout == "the end\n"
        view = json.loads(tuner(here, "log", "bowl", "1", "--json").stdout)
        assert (view["attempt"], view["ended"]) == (1, True)
        missing = tuner(here, "log", "bowl", "7")
        assert (missing.returncode, missing.stderr) == (1, "tuner: there is no trial 7\n")


def test_it_is_said_why_trials_failed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit('no data here')")
    (tmp_path / "worker.toml").write_text('[scripts.bowl]\ncommand = ["python", "script.py"]\n')
    (tmp_path / "study.yaml").write_text(STUDY)
    with installation(tmp_path) as here:
        done = tuner(here, "run", "study.yaml", "--home", "alone", "--config", "worker.toml")
        assert done.returncode == 1
        assert "2 failed: exit code 1: no data here\n" in done.stdout
        assert done.stderr.endswith("tuner: study bowl failed: every trial failed\n")
        here.serve(workers=1)
        again = tuner(here, "submit", "study.yaml", "--watch")
        assert (again.returncode, again.stderr) == (1, done.stderr.splitlines(True)[-1])
        for text in (again.stdout, tuner(here, "show", "bowl").stdout):
            assert "2 failed: exit code 1: no data here\n" in text


def test_a_wrong_file_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[scripts.x]\ncommand = []\n")
    (tmp_path / "study.yaml").write_text(STUDY)
    with installation(tmp_path) as here:
        for line in (
            ["worker", "--config", "bad.toml"],
            ["serve", "--config", "bad.toml", "--port", "0", "--no-auth"],
            ["run", "study.yaml", "--config", "bad.toml"],
            ["run", "study.yaml", "--config", "none.toml"],
        ):
            done = tuner(here, *line)
            assert done.returncode == 2, line
            assert done.stderr.splitlines()[-1].startswith(
                ("tuner: scripts.x.command: ", "tuner: config: ")
            )
