"""Commands that ask a server, against a real one: what they print, and what they did."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.dashboard.test_advisor import scaling
from tests.api.loops import submitted, train
from tuner import service
from tuner.cli import main
from tuner.cli.serving import serving
from tuner.protocol import Measured
from tuner.service import Context
from tuner.settings import Settings

Spec = dict[str, Any]
SPEC: Spec = {
    "name": "small",
    "task": {"name": "digits"},
    "objective": {"metric": "val_loss", "direction": "minimize"},
    "space": {
        "optimizer": "adamw",
        "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "batch_size": {"type": "categorical", "choices": [16, 32, 64]},
    },
    "sampler": {"name": "random", "seed": 0},
    "pruner": {"name": "none"},
    "budget": {"trials": 3, "epochs": 3},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """The database behind the server that the commands find."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings.read(
        home=home, database_url=f"sqlite:///{home}/t.sqlite", port=0, workers=0
    )
    with (
        serving(settings, auth=False, stop=threading.Event()) as url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TUNER_URL", url)
        patch.delenv("TUNER_TOKEN", raising=False)
        context = Context.open(settings.database_url)
        yield context
        context.close()


@pytest.fixture(scope="module")
def evidence(served: Context) -> str:
    return scaling(served, SPEC).name


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_a_study_is_paused_resumed_stopped_and_cancelled(
    served: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    study = submitted(served, SPEC, name="steered")
    service.ask(served, study.id)
    for command, state in (("pause", "paused"), ("resume", "running"), ("stop", "stopping")):
        assert printed(capsys, command, "steered") == f"study {study.id} is {state}\n"
        assert service.show_study(served, study.id).state == state
    told = json.loads(printed(capsys, "cancel", str(study.id), "--json"))
    assert (told["id"], told["state"]) == (study.id, "cancelled")
    assert main(["pause", "steered"]) == 1
    assert capsys.readouterr().err.startswith("tuner: ")
    assert main(["pause", "nobody"]) == 1
    assert "nobody" in capsys.readouterr().err


def test_a_study_is_changed_and_goes_on_with_more(
    served: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    study = submitted(served, SPEC, name="changed", budget={"trials": 1, "epochs": 3})
    (trial,) = service.ask(served, study.id)
    service.tell(served, trial.trial_id, trial.token, values=[0.5])
    assert service.show_study(served, study.id).state == "completed"
    more = ["--set", "budget.trials=4", "--set", "priority=5", "--set", "tags=[a, b]"]
    told = printed(capsys, "update", "changed", *more)
    assert told == f"study {study.id} is queued\n"
    shown = service.show_study(served, study.id)
    assert (shown.priority, shown.tags) == (5, ["a", "b"])
    assert shown.budget == {**study.budget, "trials": 4}
    for wrong, named in (("space.lr=1", "set: 'space.lr'"), ("budget.trials=0", "budget.trials")):
        assert main(["update", "changed", "--set", wrong]) == 2
        assert named in capsys.readouterr().err
    told = json.loads(printed(capsys, "update", "changed", "--set", "name=other", "--json"))
    assert told["name"] == "other"


def test_trials_are_exported_in_each_form(
    served: Context, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    study = submitted(served, SPEC, name="exported")
    train(served, study.id)
    assert main(["export", "exported"]) == 0
    header, *rows = capfdbinary.readouterr().out.decode().splitlines()
    assert {"number", "state", "params.lr"} <= set(header.split(","))
    assert len(rows) == 3
    assert main(["export", "exported", "--json"]) == 0
    assert [trial["number"] for trial in json.loads(capfdbinary.readouterr().out)] == [0, 1, 2]
    file = tmp_path / "trials.parquet"
    assert main(["export", "exported", "--format", "parquet", "-o", str(file)]) == 0
    assert file.read_bytes().startswith(b"PAR1")
    assert str(file) in capfdbinary.readouterr().err.decode()
    assert main(["export", "exported", "-o", str(tmp_path)]) == 2
    assert capfdbinary.readouterr().err.startswith(b"tuner: output: ")


def test_a_dataset_is_added_listed_and_deleted(
    served: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "points.csv"
    file.write_text("x,y\n1,0\n2,1\n3,0\n")
    assert printed(capsys, "dataset", "add", str(file)) == "dataset:points: 3 rows, 2 columns\n"
    added = printed(capsys, "dataset", "add", str(file), "--name", "again", "--json")
    assert json.loads(added)["name"] == "again"
    found = json.loads(printed(capsys, "dataset", "list", "--json"))
    assert {one["name"]: one["rows"] for one in found} == {"points": 3, "again": 3}
    assert printed(capsys, "dataset", "delete", "again") == "deleted again\n"
    listed = printed(capsys, "dataset", "list")
    assert "points" in listed
    assert "again" not in listed
    gone = json.loads(printed(capsys, "dataset", "delete", "points", "--json"))
    assert (gone["name"], gone["rows"]) == ("points", 3)
    assert json.loads(printed(capsys, "dataset", "list", "--json")) == []
    assert main(["dataset", "delete", "again"]) == 1
    assert "there is no dataset again" in capsys.readouterr().err


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("{trials: 8, epochs: 5}", "8 trials, at most 40 epochs in all"),
        ("{total_epochs: 40, epochs: 5}", "no bound on trials, at most 40 epochs in all"),
        ("{seconds: 60}", "no bound on trials, nor on epochs in all"),
    ],
)
def test_a_preview_counts_trials_and_whole_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: str, told: str
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(f"{{name: s, task: digits, space: {{lr: 0.1}}, budget: {budget}}}")
    assert printed(capsys, "submit", str(study), "--dry-run").startswith(f"{told}\n")


def test_a_study_is_moved_to_another_batch_size(
    evidence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("advise", "study", evidence, "--to", "512")
    advice = json.loads(printed(capsys, *command, "--json"))
    assert advice["config"]["batch_size"] == 512
    assert 1e-3 < advice["config"]["lr"] < 1e-1
    assert "512" in printed(capsys, *command)


def test_the_best_rate_is_fitted_against_the_batch_size(
    evidence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = json.loads(printed(capsys, "advise", "fit", evidence, "--json"))
    assert [one["batch_size"] for one in fit["optima"]] == [16, 32, 64, 128]
    assert "best lr" in printed(capsys, "advise", "fit", evidence)


def test_the_critical_batch_size_is_found(
    served: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of trials that need 50 (B + 100) samples to come to 0.2."""
    batches = {"type": "categorical", "choices": [16, 32, 64, 128]}
    space = {"optimizer": "adamw", "lr": 1e-3, "batch_size": batches}
    changes = {"space": space, "sampler": "grid", "budget": {"epochs": 60}}
    study = submitted(served, SPEC, name="batches", **changes)
    for asked in service.ask(served, study.id, 4):
        for step in range(1, 61):
            value = 0.2 * 50 * (asked.config["batch_size"] + 100) / (200 * step)
            measured = Measured(step=step, metrics={"val_loss": value}, samples=200 * step)
            service.report_trial(served, asked.trial_id, asked.token, measured)
    command = ("advise", "critical", "batches", "--target", "0.2")
    found = json.loads(printed(capsys, *command, "--json"))
    assert found["value"] == pytest.approx(100, rel=0.01)
    assert printed(capsys, *command).startswith("critical batch size 100 ")
    assert main(["advise", "critical", "batches", "--target", "0.001"]) == 2
    assert capsys.readouterr().err.startswith("tuner: target: ")
