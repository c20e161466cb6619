"""Scripts in a worker over the real service: whatever one does, its trial ends as it should."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installation import until
from tests.tuner.worker.scripts.processes import alive
from tests.tuner.worker.test_loop import Tearing, trials, work_until
from tuner import service
from tuner.protocol import LeaseAnswer, LeaseRequest, Report, ReportAnswer
from tuner.service import Context, StudyView, TrialView
from tuner.spec import StudySpec
from tuner.storage import migrate
from tuner.worker.direct import DirectGateway
from tuner.worker.loop import run_worker
from tuner.worker.scripts.config import Script

LR = {"type": "float", "low": 1e-3, "high": 1.0, "log": True}
BEGIN = """
import json, os, signal, subprocess, sys, time
import tuner.trial
trial = tuner.trial.current()
state = trial.checkpoint_dir / "state.json"
start = json.loads(state.read_text()) if state.exists() else 0
def loss(step):
    return (trial.params["lr"] - 0.1) ** 2 + 1 / step
def steps():
    for step in range(start + 1, trial.max_step + 1):
        yield step
        state.write_text(json.dumps(step))
        if trial.report(step, loss=loss(step)):
            break
"""
GOOD = """
for step in steps():
    print("step", step, "from", start)
"""


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    url = f"sqlite:///{tmp_path}/tuner.sqlite"
    migrate.prepare(url)
    opened = Context.open(url)
    yield opened
    opened.close()


Write = Callable[..., Script]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A script with this body, as a worker's own file would have it."""

    def make(body: str, **changes: Any) -> Script:
        (tmp_path / "script.py").write_text(BEGIN + textwrap.dedent(body))
        values = {
            "command": [sys.executable, "-u", "script.py"],
            "directory": tmp_path,
            "grace_seconds": 1.0,
            "environment": {"PYTHONPATH": str(Path(__file__).parents[4])},
        }
        return Script.model_validate({**values, **changes})

    return make


def submit(ctx: Context, script: Script, **changes: Any) -> StudyView:
    service.offer_tasks(ctx, [script.form("bowl")])
    raw = {
        "name": "bowl",
        "task": "bowl",
        "space": {"lr": LR},
        "sampler": {"name": "random", "seed": 0},
        "pruner": "none",
        "budget": {"trials": 1, "epochs": 3},
    }
    return service.submit(ctx, StudySpec.parse({**raw, **changes}))


def run(ctx: Context, script: Script, home: Path, **changes: Any) -> list[TrialView]:
    """A study of the script, worked through by one worker; its trials."""
    study = submit(ctx, script, **changes)
    work_until(ctx, study.id, home=home, scripts={"bowl": script})
    return trials(ctx, study.id)


def text(ctx: Context, trial: TrialView) -> str:
    return service.show_log(ctx, trial.id).text


def loss(params: dict[str, Any], step: int) -> float:
    return float((params["lr"] - 0.1) ** 2 + 1 / step)


def test_device_seconds_go_on_from_those_of_earlier_runs(
    context: Context, write: Write, tmp_path: Path
) -> None:
    class Later(DirectGateway):
        def lease(self, worker_id: int, request: LeaseRequest) -> LeaseAnswer:
            answer = super().lease(worker_id, request)
            later = [t.model_copy(update={"device_seconds": 1000.0}) for t in answer.leased]
            return answer.model_copy(update={"leased": later})

    script = write(GOOD)
    study = submit(context, script)
    work_until(context, study.id, home=tmp_path, scripts={"bowl": script}, gateway=Later(context))
    (trial,) = trials(context, study.id)
    assert trial.device_seconds > 1000


def test_a_script_is_tuned(context: Context, write: Write, tmp_path: Path) -> None:
    everyone = run(context, write(GOOD), tmp_path, budget={"trials": 4, "epochs": 3})
    assert [t.number for t in everyone] == [0, 1, 2, 3]
    for trial in everyone:
        assert (trial.state, trial.reason, trial.attempt) == ("complete", None, 1)
        assert trial.value == pytest.approx(loss(trial.params, 3))
        points = service.measurements(context, trial.id)
        assert [p.step for p in points] == [1, 2, 3]
        assert points[0].seconds is not None
        assert text(context, trial).endswith("step 1 from 0\nstep 2 from 0\nstep 3 from 0\n")
    assert not list((tmp_path / "checkpoints").rglob("state.json"))


def test_what_a_script_is_told(context: Context, write: Write, tmp_path: Path) -> None:
    script = write(
        """
        told = {name: value for name, value in os.environ.items() if name.startswith("TUNER_")}
        told |= {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "MINE")}
        told |= {"cwd": os.getcwd(), "file": json.load(open(told["TUNER_TRIAL"]))}
        print("TOLD" + json.dumps(told))
        trial.report(1, loss=0)
        """,
        environment={
            "MINE": "yes",
            "CUDA_VISIBLE_DEVICES": "all",
            "PYTHONPATH": str(Path(__file__).parents[4]),
        },
    )
    space = {"lr": LR, "name": "a b", "layers": 3, "flag": True, "sizes-a": [[1, 2]], "none": None}
    space["sizes-a"] = {"type": "categorical", "choices": ["8,8", "16"]}
    del space["none"]
    (trial,) = run(
        context, script, tmp_path, space=space, seed=7, budget={"trials": 1, "epochs": 1}
    )
    told = json.loads(text(context, trial).partition("TOLD")[2].splitlines()[0])
    config = trial.config
    assert told["TUNER_PARAM_LR"] == json.dumps(config["lr"])
    assert (told["TUNER_PARAM_NAME"], told["TUNER_PARAM_FLAG"]) == ("a b", "true")
    assert told["TUNER_PARAM_SIZES_A"] == config["sizes-a"]
    assert json.loads(told["TUNER_PARAMS"]) == told["file"]["params"] == config
    assert (told["CUDA_VISIBLE_DEVICES"], told["MINE"]) == ("", "yes")
    assert Path(told["cwd"]) == tmp_path
    assert told["file"]["metrics"] == ["loss"]
    assert (told["file"]["seed"], told["file"]["max_step"], told["file"]["start"]) == (7, 1, 0)
    assert not {"TUNER_TOKEN", "TUNER_HOME", "TUNER_DATABASE_URL"} & set(told)


def test_early_stopping_pauses_and_resumes_from_the_checkpoint(
    context: Context, write: Write, tmp_path: Path
) -> None:
    everyone = run(context, write(GOOD), tmp_path, pruner="asha", budget={"trials": 6, "epochs": 9})
    assert {t.state for t in everyone} == {"complete", "pruned"}
    resumed = 0
    for trial in everyone:
        points = service.measurements(context, trial.id)
        assert [p.step for p in points] == list(range(1, trial.step + 1))
        lines = [ln for ln in text(context, trial).splitlines() if ln.startswith("step ")]
        assert len(lines) == trial.step, "no step was trained twice"
        resumed += any(not line.endswith("from 0") for line in lines)
    assert resumed
    assert not list((tmp_path / "checkpoints").rglob("state.json"))


ENDS: dict[str, tuple[str, dict[str, Any], str, str | None, int]] = {
    # body, settings, state, reason, step
    "ends well before the end": (
        "trial.report(1, loss=0.5)", {}, "complete", None, 1,
    ),
    "reports nothing": ("print('done')", {}, "fail", "it ended without a measurement", 0),
    "dies at once": (
        "raise ValueError('no such file')", {}, "fail", "exit code 1: ValueError: no such file", 0,
    ),
    "dies later": (
        "trial.report(1, loss=1)\nsys.exit('out of luck')",
        {}, "fail", "exit code 1: out of luck", 1,
    ),
    "is killed": (
        "print('big', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)",
        {}, "fail", "killed by SIGKILL: big", 0,
    ),
    "cannot be started": (
        "", {"command": ["./script.py"]}, "fail", "cannot be started: Permission denied", 0,
    ),
    "hangs": (
        "time.sleep(1000)",
        {"time_limit_seconds": 2.0}, "fail", "the time limit of 2 s is over", 0,
    ),
    "hangs after a report": (
        "trial.report(1, loss=1)\ntime.sleep(1000)",
        {"time_limit_seconds": 3.0}, "fail", "the time limit of 3 s is over", 1,
    ),
    "reports nan": (
        "trial.report(1, loss=1)\nassert trial.report(2, loss=float('nan'))",
        {}, "fail", "diverged", 1,
    ),
    "lacks the metric": (
        "trial.report(1, accuracy=1)",
        {}, "fail",
        "exit code 1: tuner.errors.InvalidInput: metrics: the study goes by loss; there is only "
        "accuracy", 0,
    ),
    "goes beyond the end": (
        "trial.report(4, loss=1)",
        {}, "fail", "exit code 1: tuner.errors.InvalidInput: step: 4 is beyond the training's 3 "
        "steps", 0,
    ),
    "skips to the end": ("assert trial.report(3, loss=1)", {}, "complete", None, 3),
    "reports steps again": (
        "assert not trial.report(2, loss=1)\nassert not trial.report(1, loss=9)\n"
        "assert not trial.report(2, loss=9)\nassert trial.report(3, loss=0.5)",
        {}, "complete", None, 3,
    ),
    "goes on after the end": (
        "for step in (1, 2, 3, 3, 4, 5):\n    stop = trial.report(step, loss=1)\nassert stop",
        {}, "complete", None, 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
def test_a_trial_ends_as_its_script_does(
    context: Context, write: Write, tmp_path: Path, how: str
) -> None:
    body, settings, state, reason, step = ENDS[how]
    (trial,) = run(context, write(body, **settings), tmp_path)
    assert (trial.state, trial.reason, trial.step) == (state, reason, step)
    assert text(context, trial).startswith("$ ")
    assert not list((tmp_path / "checkpoints").rglob("state.json"))


def test_who_ignores_every_request_to_stop_is_killed_with_its_children(
    context: Context, write: Write, tmp_path: Path
) -> None:
    script = write(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "1000"])
        print("PIDS", os.getpid(), child.pid)
        trial.report(1, loss=0)
        time.sleep(1000)
        """
    )
    (trial,) = run(context, script, tmp_path, budget={"trials": 1, "epochs": 1})
    assert trial.state == "complete"
    words = text(context, trial).partition("PIDS ")[2].splitlines()[0].split()
    assert not any(alive(int(pid)) for pid in words)
    assert "[killed: it did not end within 1 s]" in text(context, trial)


def test_last_words_after_the_last_step_are_kept(
    context: Context, write: Write, tmp_path: Path
) -> None:
    script = write("trial.report(1, loss=0)\ntime.sleep(0.3)\nprint('the model is in /models/1')")
    (trial,) = run(context, script, tmp_path, budget={"trials": 1, "epochs": 1})
    assert text(context, trial).endswith("the model is in /models/1\n")


def test_a_log_without_end_is_bounded(context: Context, write: Write, tmp_path: Path) -> None:
    script = write(
        """
        print("beginning")
        for _ in range(8):
            sys.stdout.write(("x" * 1023 + "\\n") * 1024)
        print("end")
        trial.report(1, loss=0)
        """,
        log_bytes=64 * 1024,
    )
    (trial,) = run(context, script, tmp_path, budget={"trials": 1, "epochs": 1})
    kept = text(context, trial)
    assert trial.state == "complete"
    assert len(kept) < 128 * 1024
    assert "beginning\n" in kept
    assert kept.endswith("end\n")
    assert "bytes left out" in kept


def test_lost_answers_lose_and_double_nothing(
    context: Context, write: Write, tmp_path: Path
) -> None:
    script = write(GOOD)
    study = submit(context, script, budget={"trials": 3, "epochs": 3})
    gateway = Tearing(context)
    work_until(context, study.id, home=tmp_path, scripts={"bowl": script}, gateway=gateway)
    for trial in trials(context, study.id):
        assert (trial.state, trial.step) == ("complete", 3)
        lines = text(context, trial).splitlines()
        assert lines[1:] == [f"step {i} from 0" for i in (1, 2, 3)]


class Stopping(DirectGateway):
    """Ends the worker after its first report of a measurement."""

    def __init__(self, ctx: Context, stop: threading.Event) -> None:
        super().__init__(ctx)
        self.stop = stop

    def report(self, worker_id: int, report: Report) -> ReportAnswer:
        answer = super().report(worker_id, report)
        if any(slot.measurements for slot in report.slots):
            self.stop.set()
        return answer


def test_a_stopped_worker_lets_the_script_save_and_another_goes_on(
    context: Context, write: Write, tmp_path: Path
) -> None:
    script = write(
        """
        def save(*_):
            state.write_text(json.dumps(2))
            print("saved")
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        for step in steps():
            print("step", step, "from", start)
            if step == 2 and not start:
                time.sleep(1000)
        """,
        grace_seconds=30,
    )
    study = submit(context, script)
    stop = threading.Event()
    options = {"device": "cpu", "home": tmp_path, "scripts": {"bowl": script}}
    run_worker(Stopping(context, stop), name="first", stop=stop, **options)
    (trial,) = trials(context, study.id)
    assert (trial.state, trial.attempt, trial.step) == ("waiting", 1, 1)
    assert text(context, trial).endswith("saved\n")
    work_until(context, study.id, home=tmp_path, scripts={"bowl": script})
    (trial,) = trials(context, study.id)
    assert (trial.state, trial.attempt, trial.step) == ("complete", 1, 3)
    assert text(context, trial).endswith("step 3 from 2\n")


def test_a_cancelled_study_ends_its_script(context: Context, write: Write, tmp_path: Path) -> None:
    script = write("print('PID', os.getpid())\ntrial.report(1, loss=1)\ntime.sleep(1000)")
    study = submit(context, script)

    def cancel() -> None:
        until(lambda: trials(context, study.id) and trials(context, study.id)[0].step, "a step")
        service.cancel_study(context, study.id)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    work_until(context, study.id, home=tmp_path, scripts={"bowl": script})
    canceller.join()
    (trial,) = trials(context, study.id)
    assert (trial.state, trial.reason) == ("fail", "cancelled")
    pid = int(text(context, trial).partition("PID ")[2].split()[0])
    assert not alive(pid)


def test_a_second_run_waits_until_the_first_is_gone(
    context: Context, write: Write, tmp_path: Path
) -> None:
    """A trial handed on at once, while its script still writes the checkpoint of the pause."""
    script = write(
        """
        if start == 0:
            trial.report(1, loss=1)
            time.sleep(1)
            state.write_text(json.dumps(1))
        else:
            trial.report(2, loss=1)
            print("found", start)
        """,
        grace_seconds=30,
    )
    study = submit(context, script, budget={"trials": 1, "epochs": 2}, pruner="asha")
    service.tick(context)
    workers = [
        threading.Thread(
            target=work_until,
            args=(context, study.id),
            kwargs={"home": tmp_path, "scripts": {"bowl": script}},
        )
        for _ in range(2)
    ]
    pauser = Pausing(context, study.id)
    for worker in workers:
        worker.start()
    pauser.join()
    for worker in workers:
        worker.join()
    (trial,) = trials(context, study.id)
    # The step that it reported was not saved when it was handed on, so that it might be done again.
    assert (trial.state, trial.attempt) == ("complete", 2)
    assert text(context, trial).endswith("found 1\n")


class Pausing(threading.Thread):
    """Pauses a study before its first step is measured, and lets it go on as soon as it was."""

    def __init__(self, ctx: Context, study_id: int) -> None:
        super().__init__()
        self.ctx, self.study_id = ctx, study_id
        self.start()

    def run(self) -> None:
        self._until("running")
        service.pause_study(self.ctx, self.study_id)
        self._until("waiting")
        service.resume_study(self.ctx, self.study_id)

    def _until(self, state: str) -> None:
        until(lambda: state in [t.state for t in trials(self.ctx, self.study_id)], state)


def test_populations_and_scripts_take_turns_on_one_device(
    context: Context, write: Write, tmp_path: Path
) -> None:
    script = write("print(os.getpid())\n" + GOOD)
    study = submit(context, script, budget={"trials": 3, "epochs": 2})
    digits = service.submit(
        context,
        StudySpec.parse(
            {
                "name": "digits",
                "task": "digits",
                "space": {"lr": {**LR, "high": 0.01}, "batch_size": 64},
                "sampler": "random",
                "pruner": "none",
                "budget": {"trials": 6, "epochs": 1},
            }
        ),
    )
    held: list[set[str]] = []

    class Watching(DirectGateway):
        def report(self, worker_id: int, report: Report) -> ReportAnswer:
            running = [
                *service.list_trials(self._context, study.id, state="running").items,
                *service.list_trials(self._context, digits.id, state="running").items,
            ]
            held.append({"script" if t.study_id == study.id else "task" for t in running})
            return super().report(worker_id, report)

    for one in (study, digits):
        options: dict[str, Any] = {"home": tmp_path, "scripts": {"bowl": script}, "slots": 2}
        work_until(context, one.id, gateway=Watching(context), **options)
    assert {t.state for t in [*trials(context, study.id), *trials(context, digits.id)]} == {
        "complete"
    }
    assert {"script"} in held
    assert {"task"} in held
    assert {"script", "task"} not in held


def test_the_worker_outlives_a_script_that_it_does_not_have(
    context: Context, write: Write, tmp_path: Path
) -> None:
    """Its file was changed since: only what it has now is leased to it."""
    script = write(GOOD)
    study = submit(context, script)
    stop = threading.Event()
    timer = threading.Timer(1.0, stop.set)
    timer.start()
    run_worker(
        DirectGateway(context), name="w", device="cpu", home=tmp_path, stop=stop,
        scripts={"other": script},
    )  # fmt: skip
    timer.join()
    assert service.show_study(context, study.id).state == "queued"
    work_until(context, study.id, home=tmp_path, scripts={"bowl": script})
    assert service.show_study(context, study.id).state == "completed"


def test_nothing_is_left_behind(context: Context, write: Write, tmp_path: Path) -> None:
    own = tmp_path / "tmp"
    own.mkdir()
    before = os.environ.get("TMPDIR")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(own))
        run(context, write(GOOD), tmp_path, budget={"trials": 2, "epochs": 2})
    assert os.environ.get("TMPDIR") == before
    assert list(own.iterdir()) == []
