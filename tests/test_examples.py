"""The examples run, by the lines of the README that shows them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.installation import PATIENCE_SECONDS
from tests.test_readme import README, commands
from tuner import service
from tuner.cli.serving import serving
from tuner.client import Client
from tuner.service import Context
from tuner.settings import Settings
from tuner.training import Population

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SECTION = README.partition("## Tune your own model\n")[2].partition("\n## ")[0]
LINES = commands(SECTION)


def python(
    home: Path, *arguments: str, folder: Path = EXAMPLES, **variables: str
) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TUNER_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**clean, "OMP_NUM_THREADS": "1", "TUNER_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def tuner(home: Path, beginning: str, folder: Path = EXAMPLES) -> Any:
    """What the README's command of this beginning prints as JSON."""
    (line,) = [line for line in LINES if line.startswith(f"tuner {beginning}")]
    done = python(home, "-m", *line.split(), "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def shown() -> list[str]:
    """Each piece of code that the section shows."""
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", SECTION, re.DOTALL)
    return [
        piece for block in blocks for piece in re.split(r"^\.\.\.\n", block, flags=re.MULTILINE)
    ]


@pytest.mark.parametrize("piece", shown())
def test_what_the_readme_shows_is_an_examples_code(piece: str) -> None:
    wanted = textwrap.dedent(piece).splitlines()
    for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.toml")]:
        lines = path.read_text().splitlines()
        for at in range(len(lines) - len(wanted) + 1):
            if textwrap.dedent("\n".join(lines[at : at + len(wanted)])).splitlines() == wanted:
                return
    raise AssertionError(f"no example has these lines:\n{piece}")


def test_every_example_is_in_the_readme() -> None:
    text = README + "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    for path in filter(Path.is_file, EXAMPLES.iterdir()):
        assert path.name in text, path.name


def test_a_task_of_ones_own_is_tuned(tmp_path: Path) -> None:
    checked = tuner(tmp_path, "task check")
    assert (checked["task"], checked["problems"]) == ("moons", [])
    answer = tuner(tmp_path, "run moons.yaml")
    assert answer["study"]["state"] == "completed"
    assert answer["study"]["counts"]["fail"] == 0
    assert answer["best"][0]["value"] > 0.9
    assert "model.hidden" in answer["best"][0]["config"]


@pytest.mark.parametrize(
    ("name", "better_than"),
    [("pytorch_script", ("loss", 1.0)), ("sklearn_script", ("accuracy", 0.9))],
)
def test_a_script_of_ones_own_is_tuned(
    tmp_path: Path, name: str, better_than: tuple[str, float]
) -> None:
    # Fewer trials: each imports all that its script needs, which takes longer than to train it.
    copies = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copies)
    whole = (copies / f"{name}.yaml").read_text()
    (copies / f"{name}.yaml").write_text(whole.replace("{trials: 5,", "{trials: 3,"))
    answer = tuner(tmp_path, f"run {name}.yaml", copies)
    assert answer["study"]["state"] == "completed"
    counts = answer["study"]["counts"]
    assert (counts["fail"], counts["complete"] + counts["pruned"]) == (0, 3)
    metric, bound = better_than
    best = answer["best"][0]
    assert best["value"] == best["last_metrics"][metric]
    assert (best["value"] < bound) == (metric == "loss")


def test_the_loss_that_the_page_shows_gets_what_the_page_says() -> None:
    page = (ROOT / "docs" / "own_models.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown: dict[str, Any] = {}
    exec((EXAMPLES / "moons.py").read_text() + code, shown)  # our own code
    seen: dict[str, Any] = {}

    class Watched(shown["Focal"]):  # type: ignore[misc]
        def loss(self, output: Any, target: torch.Tensor, config: Any) -> torch.Tensor:
            seen.update(config)
            return super().loss(output, target, config)  # type: ignore[no-any-return]

    config = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "batch_size": 32, "epochs": 1}
    config |= {"schedule": "cosine", "schedule.final": 0.0, "warmup_fraction": 0.1}
    config |= {"dropout": 0.1, "clip_norm": 1.0, "lr_scale.0": 1.0}
    config |= {"model.hidden": 8, "loss.focus": 1.0, "precision": "fp32"}
    population = Population(Watched(), config, 1)
    population.load(0, config, 0, epochs=1.0)
    population.train(64)
    assert seen.keys() == {"model.hidden", "loss.focus", "precision", "label_smoothing"}
    assert (seen["model.hidden"], seen["precision"]) == (8, "fp32")
    assert seen["loss.focus"].shape == ()
    seen.clear()
    assert population.evaluate()[0]["val_loss"] > 0
    assert seen.keys() == {"model.hidden", "loss.focus", "precision", "label_smoothing"}


def test_a_script_runs_by_hand(tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text('{"params": {"C": 1.0, "kernel": "linear"}}')
    done = python(tmp_path, "sklearn_script.py", TUNER_TRIAL=str(tmp_path / "trial.json"))
    assert done.returncode == 0, done.stderr
    assert "step 1: accuracy=0.9" in done.stdout
    alone = python(tmp_path, "sklearn_script.py")
    assert "not run by a worker; to try it by hand" in alone.stderr


def test_a_loop_of_ones_own_is_tuned(tmp_path: Path) -> None:
    settings = Settings.read(
        home=tmp_path, database_url=f"sqlite:///{tmp_path}/t.sqlite", port=0, workers=0
    )
    with serving(settings, auth=False, stop=threading.Event()) as url:
        assert "python own_loop.py" in LINES
        done = python(tmp_path, "own_loop.py", TUNER_URL=url)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("best of 12:")
        with Client(url) as client:
            study = client.study("boosted-trees")
            trials = list(client.trials(study.id))
    assert study.state == "completed"
    assert {trial.state for trial in trials} <= {"complete", "pruned"}
    assert study.best is not None
    assert study.best.value == pytest.approx(
        min(t.value for t in trials if t.state == "complete" and t.value is not None)
    )


def test_a_grid_tells_how_the_best_rate_goes_with_the_batch_size(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "tuner", "run", "scaling.yaml", "--json")
    assert done.returncode == 0, done.stderr
    study = json.loads(done.stdout)["study"]
    assert (study["state"], study["counts"]["complete"]) == ("completed", 102)
    context = Context.open(f"sqlite:///{tmp_path}/tuner.sqlite")
    try:
        found = service.fit_studies(context, [study["id"]])
        advice = service.advise_study(context, study["id"], 1024)
    finally:
        context.close()
    assert [o.batch_size for o in found.optima] == [16, 32, 64, 128, 256, 512]
    assert found.identified, found.why
    assert found.exponent is not None
    assert found.exponent.high - found.exponent.low < 1.5
    assert advice.rule == "trials"
