"""The commands of docs/operations.md bring back what they kept, from both databases."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

from tests.databases import postgres_tools
from tests.programs import needed
from tests.test_readme import commands
from tuner import service
from tuner.service import Context, ServiceSettings, datasets
from tuner.spec import StudySpec
from tuner.storage import migrate

STUDY = {
    "name": "kept",
    "objective": {"metric": "loss", "direction": "minimize"},
    "space": {"depth": {"type": "int", "low": 1, "high": 4}},
    "budget": {"trials": 3, "epochs": 2},
}
PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()


def lines(heading: str, *, without: str) -> list[str]:
    """The shell lines of a part, but for the other database's and tuner's own."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = [line for line in commands(part) if line.strip()]
    return [line for line in found if without not in line and not line.startswith("tuner ")]


def run(words: list[str], folder: Path, home: Path, url: str, tools: Path | None) -> None:
    path = os.environ["PATH"] if tools is None else f"{tools}:{os.environ['PATH']}"
    url = url.replace("postgresql+psycopg", "postgresql")
    told = {**os.environ, "PATH": path, "TUNER_HOME": str(home), "TUNER_DATABASE_URL": url}
    done = subprocess.run(
        ["bash", "-ec", "\n".join(words)],
        cwd=folder,
        env=told,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def opened(url: str, home: Path) -> Context:
    return Context.open(url, settings=ServiceSettings(home=home))


def test_what_is_backed_up_comes_back(
    dialect: str, database_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    if dialect == "sqlite":
        needed("sqlite3")
    tools = None if dialect == "sqlite" else postgres_tools()
    other = "pg_" if dialect == "sqlite" else "sqlite"
    home, restored = tmp_path, tmp_path / "restored"
    context = opened(database_url, home)
    study = service.submit(context, StudySpec.parse(STUDY))
    table = b"a,b\n1,2\n3,4\n"
    kept = datasets.add_dataset(context, "small", io.BytesIO(table), format="csv")
    (home / "checkpoints").mkdir()
    (home / "checkpoints" / "1.safetensors").write_bytes(b"state")
    run(lines("Backing up", without=other), tmp_path, home, database_url, tools)
    service.submit(context, StudySpec.parse({**STUDY, "name": "later"}))
    context.close()
    url = f"sqlite:///{restored}/tuner.sqlite" if dialect == "sqlite" else bare_database_url
    run(lines("Restoring", without=other), tmp_path, restored, url, tools)
    migrate.check(url)
    back = opened(url, restored)
    assert [found.name for found in service.list_studies(back).items] == [study.name]
    assert datasets.dataset_file(back, kept.sha256).read_bytes() == table
    assert (restored / "checkpoints" / "1.safetensors").read_bytes() == b"state"
    if dialect == "sqlite":
        assert (restored / "tuner.sqlite").stat().st_mode & 0o077 == 0
    back.close()
