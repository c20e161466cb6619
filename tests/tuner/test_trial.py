"""``tuner.trial`` in a script: what it is told, what it says, and without a worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.installation import PATIENCE_SECONDS
from tests.tuner.worker.scripts.processes import listening
from tuner import trial
from tuner.errors import InvalidInput
from tuner.worker.scripts.channel import Said


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    trial.current.cache_clear()
    yield
    trial.current.cache_clear()


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., trial.Trial]:
    """The trial of a file with this content."""

    def begin(content: Any) -> trial.Trial:
        path = tmp_path / "trial.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        monkeypatch.setenv(trial.FILE, str(path))
        return trial.current()

    return begin


def test_a_script_reads_what_it_is_to_train(
    told: Callable[..., trial.Trial], tmp_path: Path
) -> None:
    content = {
        "params": {"lr": 0.1, "sizes": [1, 2]}, "seed": 3, "number": 4, "study": 5, "attempt": 2,
        "start": 1, "max_step": 9, "metrics": ["loss"], "checkpoint_dir": str(tmp_path / "own"),
    }  # fmt: skip
    found = told(content)
    assert found.params == {"lr": 0.1, "sizes": [1, 2]}
    assert (found.seed, found.number, found.study, found.attempt) == (3, 4, 5, 2)
    assert (found.start, found.max_step, found.metrics) == (1, 9, ("loss",))
    assert not (tmp_path / "own").exists()
    assert found.checkpoint_dir.is_dir()
    assert trial.current() is found


def test_reports_are_answered(told: Callable[..., trial.Trial], tmp_path: Path) -> None:
    heard = []

    def answer(said: Said) -> None:
        heard.append((said.step, said.metrics))
        if said.step == 3:
            said.refuse("metrics", "the study goes by loss")
        else:
            said.answer(stop=said.step == 2)

    with listening(tmp_path / "s", answer):
        found = told({"params": {}, "socket": str(tmp_path / "s")})
        assert found.report(1, loss=0.5) is False
        assert found.report(np.int64(2), loss=torch.tensor(0.25), acc=np.float32(1)) is True
        with pytest.raises(InvalidInput, match="goes by loss") as caught:
            found.report(3, accuracy=1)
    assert caught.value.field == "metrics"
    assert heard[:2] == [(1, {"loss": 0.5}), (2, {"loss": 0.25, "acc": 1.0})]


def test_nan_is_said_as_it_is(told: Callable[..., trial.Trial], tmp_path: Path) -> None:
    heard: list[float] = []

    def answer(said: Said) -> None:
        heard.extend(said.metrics.values())
        said.answer(stop=True)

    with listening(tmp_path / "s", answer):
        told({"params": {}, "socket": str(tmp_path / "s")}).report(1, a=float("nan"), b=1e400)
    assert np.isnan(heard[0])
    assert heard[1] == np.inf


def test_many_processes_of_one_script_may_report(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    path.write_text(json.dumps({"params": {}, "socket": str(tmp_path / "s")}))
    code = "import tuner.trial; print(tuner.trial.current().report(1, loss=1))"
    with listening(tmp_path / "s", lambda said: said.answer(stop=False)):
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", code], env={trial.FILE: str(path)}, stdout=subprocess.PIPE
            )
            for _ in range(3)
        ]
        assert [rank.communicate(timeout=PATIENCE_SECONDS)[0] for rank in ranks] == [b"False\n"] * 3


@pytest.mark.parametrize("there", [True, False], ids=["it ends meanwhile", "it was gone"])
def test_a_worker_that_is_gone_wants_nothing_more(
    told: Callable[..., trial.Trial],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    there: bool,
) -> None:
    found = told({"params": {}, "socket": str(tmp_path / "s")})
    if there:
        with listening(tmp_path / "s", lambda said: said._connection.close()):
            assert found.report(1, loss=1) is True
    else:
        assert found.report(1, loss=1) is True
    assert "stopping" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("step", "metrics", "field"),
    [
        (0, {"loss": 1}, "step"),
        (1, {}, "metrics"),
        (1, {"loss": "low"}, "metrics.loss"),
        (1, {"loss": None}, "metrics.loss"),
        (1, {"loss": torch.ones(2)}, "metrics.loss"),
        (1, {"x" * 300: 1}, "metrics.xxx"),
        (1, {str(i): i for i in range(1001)}, "metrics"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_report_is_refused_by_name(
    told: Callable[..., trial.Trial], step: int, metrics: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        told({"params": {}}).report(step, **metrics)
    assert caught.value.field.startswith(field)


def test_without_a_worker_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(trial.FILE, raising=False)
    with pytest.raises(InvalidInput, match="not run by a worker; to try it by hand") as caught:
        trial.current()
    assert caught.value.field == "TUNER_TRIAL"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"params": 1}', '{"params": {}, "seed": "x"}']
)
def test_a_file_that_is_no_trial(told: Callable[..., trial.Trial], content: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        told(content)
    assert caught.value.field == "TUNER_TRIAL"


def test_by_hand_reports_are_printed_and_max_step_ends_it(
    told: Callable[..., trial.Trial], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told({"params": {"lr": 0.1}, "max_step": 2})
    assert [found.report(step, loss=1 / step) for step in (1, 2)] == [False, True]
    assert capsys.readouterr().out == "step 1: loss=1\nstep 2: loss=0.5\n"
    assert found.checkpoint_dir == tmp_path / "trial.checkpoint"


def test_names_as_environment_variables() -> None:
    assert trial.variable("lr") == "TUNER_PARAM_LR"
    assert trial.variable("model.hidden-size") == "TUNER_PARAM_MODEL_HIDDEN_SIZE"


def test_it_loads_at_once() -> None:
    """A script's own environment may have nothing but this package."""
    code = "import sys, tuner.trial; print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "numpy", "pydantic", "sqlalchemy", "httpx"} & set(told)
