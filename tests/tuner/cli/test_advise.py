"""Commands that train a little to advise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner.cli import main
from tuner.client import load
from tuner.spec import StudySpec, check


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_range_for_the_learning_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "range", "--task", "digits", "--seeds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["low"] <= 1e-3
    assert found["high"] >= 1e-2
    assert found["space"]["lr"] == {
        "type": "float", "low": found["low"], "high": found["high"], "log": True
    }  # fmt: skip
    assert len(found["lr"]) == len(found["loss"]) == 200


def test_the_noise_scale_of_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "best.yaml").write_text("{lr: 1e-3, batch_size: 64, optimizer: adamw}")
    command = ["advise", "measure", "--task", "digits", "--config", "best.yaml"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["low"] < found["value"] < found["high"]
    assert main(command) == 0
    assert f"noise scale {found['value']:.4g} samples" in capsys.readouterr().out


WRONG: list[tuple[list[str], str, str]] = [
    (["range", "--task", "digit"], "", "digits"),
    (["range", "--task", "digits", "--optimizer", "adamv"], "", "config.optimizer"),
    (["range", "--task", "digits", "--param", "depth=3"], "", "task.params.depth"),
    (["range", "--task", "digits", "--device", "tpu"], "", "device"),
    (["range", "--task", "digits"], "{beta1: 2}", "config.beta1"),
    (["measure", "--task", "digits"], "{lr: fast}", "config.lr"),
    (["measure", "--task", "digits"], "{lrr: 1}", "config.lrr"),
    (["measure", "--task", "digits"], "{batch_size: 1}", "batch_size"),
    (["measure", "--task", "digits"], "{epochs: long}", "config.epochs"),
    (["measure", "--task", "digits"], "[1, 2]", "config"),
    (["measure", "--task", "digits"], "{a: ", "config"),
    (["measure", "--task", "digits", "--steps", "0"], "", "steps"),
]


@pytest.mark.parametrize(("arguments", "config", "names"), WRONG, ids=[w[2] for w in WRONG])
def test_wrong_input_is_one_line_that_names_it(
    arguments: list[str],
    config: str,
    names: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["advise", *arguments]
    if config:
        (tmp_path / "config.yaml").write_text(config)
        command += ["--config", "config.yaml"]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert names in printed.err


BREAKING = """
from tuner import tasks

class {name}(tasks.get("digits")):
    name = "{name}"

    def {method}:
        raise RuntimeError("shapes do not fit\\nand more")
"""


@pytest.mark.parametrize("arguments", [["range"], ["measure"], ["memory"]], ids=lambda a: a[0])
@pytest.mark.parametrize(
    "method", ["model(self, config)", "loss(self, output, target, config)"], ids=lambda m: m[:4]
)
def test_a_task_that_raises_is_one_line_that_says_what(
    arguments: list[str],
    method: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"breaking_{arguments[0]}_{method[:4]}"
    (tmp_path / f"{name}.py").write_text(BREAKING.format(name=name, method=method))
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["advise", *arguments, "--task", f"{name}:{name}"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    told = "cannot be trained: RuntimeError: shapes do not fit"
    assert printed.err == f"tuner: {name}:{name} {told}\n"


def test_no_file_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "measure", "--task", "digits", "--config", "none.yaml"]) == 2
    assert "none.yaml cannot be read" in capsys.readouterr().err


def test_scale_takes_every_hyperparameter(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["advise", "scale", "--optimizer", "adam", "--lr", "5e-4", "--batch", "128"]
    more = ["--beta1", "0.9", "--beta2", "0.999", "--eps", "1e-8", "--warmup-steps", "4000"]
    assert main([*command, "--to", "256", *more, "--rule", "sde", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"config", "range", "rule", "why", "alternatives", "confidence"} <= set(found)
    assert found["config"]["beta1"] == pytest.approx(0.8)
    assert found["config"]["warmup_steps"] == 2000
    assert main([*command, "--to", "2048", *more, "--rule", "sde", "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "beta1" in printed.err


def test_memory_by_measured_peaks(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["advise", "memory", "--parameters", "1000000", "--batch", "8", "--capacity", "80e9"]
    assert main([*command, "--peak", "8=1.8e9", "--peak", "24=3.4e9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials_one_process"] == 40
    assert main([*command, "--peak", "8"]) == 2
    assert "peak" in capsys.readouterr().err


def test_memory_of_a_task_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["advise", "memory", "--task", "digits", "--batch", "32"]
    assert main([*command, "--capacity", "1e9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["basis"] == "measured"
    assert found["parameter_bytes"] == 16 * (64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10)
    assert found["activation_bytes"] > 0
    assert found["trials_one_process"] > 100
    assert main(command) == 0  # as many as fit what is free here
    assert "trials in one process" in capsys.readouterr().out
    assert main(["advise", "memory"]) == 2
    assert "parameters" in capsys.readouterr().err


def test_a_plan_is_a_study_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["advise", "plan", "--task", "digits", "--lr", "1e-3", "--batch", "32"]
    command += ["--epochs", "1", "-o", "scaling.yaml"]
    assert main([*command, "--trials", "40", "--to", "256", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert load(tmp_path / "scaling.yaml") == found["study"]
    assert main([*command, "--trials", "3"]) == 2
    assert "trials" in capsys.readouterr().err
    assert main([*command, "--trials", "40", "--epochs", "2.5"]) == 2
    assert "epochs" in capsys.readouterr().err


def test_a_plan_of_a_task_of_ones_own_says_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "examples"))
    command = ["advise", "plan", "--task", "moons:Moons", "--lr", "1e-2", "--batch", "32"]
    assert main([*command, "--epochs", "1", "--trials", "40", "-o", "scaling.yaml"]) == 0
    study = load(tmp_path / "scaling.yaml")
    assert study["task"] == {"name": "moons"}
    check(StudySpec.parse(study))
    assert main([*command[:3], "moons:Mons", *command[4:], "--epochs", "1", "--trials", "40"]) == 2
    assert "'moons:Mons' cannot be loaded" in capsys.readouterr().err
