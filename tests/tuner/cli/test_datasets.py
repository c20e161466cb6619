"""``tuner dataset`` against a real server."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tuner.cli import main
from tuner.cli.serving import serving
from tuner.settings import Settings


def test_a_dataset_is_uploaded_listed_and_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNER_TOKEN", raising=False)
    settings = Settings.read(
        home=tmp_path, database_url=f"sqlite:///{tmp_path}/t.sqlite", port=0, workers=0
    )
    (tmp_path / "small.csv").write_text("a,b\n1,2\n3,4\n")
    with serving(settings, auth=False, stop=threading.Event()) as url:
        monkeypatch.setenv("TUNER_URL", url)
        assert main(["dataset", "add", str(tmp_path / "small.csv")]) == 0
        capsys.readouterr()
        assert main(["dataset", "delete", "small", "--json"]) == 0
        gone = json.loads(capsys.readouterr().out)
        assert (gone["name"], gone["rows"]) == ("small", 2)
        assert main(["dataset", "list", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == []
        assert main(["dataset", "delete", "small"]) == 1
        assert "there is no dataset small" in capsys.readouterr().err
