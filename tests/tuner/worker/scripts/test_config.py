"""The worker's own file: what it may say, and one clear refusal that names the field."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tuner.errors import InvalidInput
from tuner.worker.scripts.config import FILE, WorkerConfig, scripts_of

GOOD = """
[scripts.my_llm]
command = ["python", "train.py", "--fast"]
directory = "llm"
environment = { WANDB_MODE = "offline" }
time_limit_seconds = 7200
grace_seconds = 30
log_bytes = 4096
summary = "a language model"
objective = { metric = "bleu", direction = "maximize" }
metrics = ["bleu", "loss"]

[scripts.short]
command = ["/bin/sh", "-c", "true"]
"""


def written(folder: Path, text: str) -> Path:
    (folder / "llm").mkdir(exist_ok=True)
    path = folder / "worker.toml"
    path.write_text(text)
    return path


def test_all_that_it_may_say(tmp_path: Path) -> None:
    scripts = WorkerConfig.read(written(tmp_path, GOOD)).scripts
    full, short = scripts["my_llm"], scripts["short"]
    assert full.command == ("python", "train.py", "--fast")
    assert full.directory == tmp_path / "llm"
    assert (full.time_limit_seconds, full.grace_seconds, full.log_bytes) == (7200, 30, 4096)
    assert (short.directory, short.time_limit_seconds) == (tmp_path, None)
    form = full.form("my_llm")
    assert (form.kind, form.objective, form.metrics) == (
        "script",
        ("bleu", "maximize"),
        ("bleu", "loss"),
    )
    assert short.form("short").objective == ("loss", "minimize")


def test_a_server_is_not_told_the_command(tmp_path: Path) -> None:
    scripts = WorkerConfig.read(written(tmp_path, GOOD)).scripts
    told = scripts["my_llm"].form("my_llm").model_dump_json()
    for secret in ("train.py", "WANDB", str(tmp_path)):
        assert secret not in told


def test_the_environment_has_no_secrets_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_TOKEN", "hush-7261")
    monkeypatch.setenv("TUNER_DATABASE_URL", "postgresql://user:hush-7261@host/db")
    found = WorkerConfig.read(written(tmp_path, GOOD)).scripts["my_llm"].variables()
    assert "hush-7261" not in str(found.values())
    assert found["WANDB_MODE"] == "offline"
    assert found["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("scripts = ", "config", "is not TOML"),
        ("[workers]", "workers", "there is no such field"),
        ("[scripts.x]", "scripts.x.command", "is missing"),
        ("[scripts.x]\ncommand = []", "scripts.x.command", "at least 1"),
        ('[scripts.x]\ncommand = "python"', "scripts.x.command", "a list of words"),
        ('[scripts.x]\ncommand = ["true", 1]', "scripts.x.command[1]", "string"),
        ('[scripts.x]\ncommand = [""]', "scripts.x.command[0]", "at least 1"),
        ('[scripts.x]\ncommand = ["no-such-program"]', "scripts.x.command", "is no program"),
        ('[scripts.x]\ncommand = ["./llm"]', "scripts.x.command", "is no program"),
        ('[scripts.x]\ncommand = ["true"]\ntime = 1', "scripts.x.time", "no such field"),
        (
            '[scripts.x]\ncommand = ["true"]\ntime_limit_seconds = 0',
            "scripts.x.time_limit_seconds",
            "greater than 0",
        ),
        (
            '[scripts.x]\ncommand = ["true"]\ngrace_seconds = nan',
            "scripts.x.grace_seconds",
            "finite",
        ),
        ('[scripts.x]\ncommand = ["true"]\nlog_bytes = 1', "scripts.x.log_bytes", "1024"),
        ('[scripts.x]\ncommand = ["true"]\ndirectory = "no"', "scripts.x.directory", "no folder"),
        (
            '[scripts.x]\ncommand = ["true"]\nenvironment = { A = 1 }',
            "scripts.x.environment.A",
            "string",
        ),
        (
            '[scripts.x]\ncommand = ["true"]\nmetrics = ["bleu"]',
            "scripts.x.objective",
            "'loss' is not among",
        ),
        ('[scripts.digits]\ncommand = ["true"]', "scripts.digits", "a task of that name"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, field: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        WorkerConfig.read(path)
    assert caught.value.field == field
    assert message in caught.value.message
    assert str(path) in caught.value.message


def test_the_file_in_the_home_folder_needs_no_name(tmp_path: Path) -> None:
    assert scripts_of(None, tmp_path) == {}
    written(tmp_path, GOOD)
    assert FILE == "worker.toml"
    assert set(scripts_of(None, tmp_path)) == {"my_llm", "short"}
    with pytest.raises(InvalidInput, match="cannot be read"):
        scripts_of(tmp_path / "none.toml", tmp_path)
