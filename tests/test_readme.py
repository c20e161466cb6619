"""The README and pages beside it tell the truth: curl lines work, commands and targets exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.installation import PATIENCE_SECONDS
from tests.programs import needed
from tuner import trial
from tuner.cli.main import app
from tuner.cli.serving import serving
from tuner.client import Client
from tuner.settings import Settings
from tuner.spec import StudySpec, check

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [file.read_text() for file in FILES]


def commands(page: str = README) -> list[str]:
    """The shell lines of the indented blocks, each with the lines it goes on over, uncommented."""
    found: list[str] = []
    open_quote = False
    for line in page.splitlines():
        if not line.startswith("    "):
            open_quote = False
            continue
        text = line.removeprefix("    ")
        if open_quote or (found and found[-1].endswith("\\")):
            found[-1] += "\n" + text
        else:
            found.append(text)
        open_quote = found[-1].count("'") % 2 == 1
    return [re.sub(r"\s+#.*$", "", command) for command in found]


def test_the_curl_lines_submit_and_read_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed("curl")
    lines = [command for command in commands() if re.match(r"(study=\$\()?curl ", command)]
    assert len(lines) >= 3
    settings = Settings.read(
        home=tmp_path, database_url=f"sqlite:///{tmp_path}/t.sqlite", port=0, workers=0
    )
    with serving(settings, auth=True, stop=threading.Event()) as url:
        shown = re.search(r"export (TUNER_TOKEN=\S+)", capsys.readouterr().err)
        assert shown is not None
        name, _, secret = shown[1].partition("=")
        with Client(url, secret) as client:
            client.submit({"name": "demo", "task": "digits"})  # as after `make demo`
            answers = subprocess.run(
                ["bash", "-ec", "\necho\n".join(lines).replace("http://127.0.0.1:8420", url)],
                env={**os.environ, name: secret},
                check=True,
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            ).stdout.split("\n")
            assert [study.name for study in client.studies()] == ["first", "demo"]
    assert json.loads(answers[1])["name"] == "first"
    assert not any('"code"' in answer for answer in answers), answers


@pytest.mark.parametrize(
    "line",
    [
        command
        for page in PAGES
        for command in commands(page)
        if re.match(r"(\S+=\S+ )*(\.venv/bin/)?tuner ", command)
    ],
)
def test_commands_and_their_options_exist(line: str) -> None:
    words = [word for word in line.split() if "=" not in word or word.startswith("-")][1:]
    command, rest = found(words)
    command.make_context(command.name, rest).close()


def found(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words begin with, and those after its name."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        name, *words = words
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    return command, words


@pytest.mark.parametrize(
    "line", sorted({line for page in PAGES for line in re.findall(r"`(tuner [a-z][^`]*)`", page)})
)
def test_commands_in_the_text_exist(line: str) -> None:
    """In part: what they need may be left out."""
    command, rest = found(line.split()[1:])
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


def test_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = README + (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / ".ci/run").read_text()
    used = set(re.findall(r"^\s*make ([a-z]+)", text, re.MULTILINE))
    assert {"demo", "test", "lint"} <= used
    assert used <= targets


def test_variables_exist() -> None:
    known = {f"TUNER_{name}".upper() for name in Settings.model_fields}
    known |= {trial.FILE, trial.PARAMETERS}
    for page in PAGES:
        used = set(re.findall(r"TUNER_[A-Z_]+", page))
        assert {name for name in used if not name.startswith(trial.variable(""))} <= known


def anchors(page: str) -> set[str]:
    """What GitHub calls its headings."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", file.read_text()):
        target = file.parent / path if path else file
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target.read_text()), f"{path}#{anchor}"


def test_the_example_is_a_study() -> None:
    checked = check(StudySpec.from_yaml(ROOT / "examples" / "digits.yaml"))
    assert checked.spec.budget is not None
    assert (checked.spec.budget.trials, checked.max_step) == (64, 20)


def test_the_code_compiles() -> None:
    for block in re.findall(r"```python\n(.*?)```", "".join(PAGES), re.DOTALL):
        for piece in block.split("\n...\n"):  # what is left out of a longer file
            body = textwrap.indent(textwrap.dedent(piece), "  ")
            compile(f"def shown():\n while True:\n{body}", "README.md", "exec")
