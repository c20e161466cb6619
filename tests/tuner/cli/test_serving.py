"""What a server shows at its start, and to whom."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from tuner.cli.serving import serving
from tuner.client import Client
from tuner.errors import InvalidInput, Unauthorized
from tuner.service import Context, tokens
from tuner.settings import Settings
from tuner.storage import migrate


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.read(
        home=tmp_path, database_url=f"sqlite:///{tmp_path}/t.sqlite", port=0, workers=0
    )


def started(settings: Settings, capsys: pytest.CaptureFixture[str], *, auth: bool = True) -> str:
    """What one start prints, after a look at what an unknown client may do."""
    with serving(settings, auth=auth, stop=threading.Event()) as url:
        printed = capsys.readouterr().err
        shown = re.search(r"export TUNER_TOKEN=(\S+)", printed)
        with Client(url, shown[1] if shown else None) as client:
            if auth and not shown:
                with pytest.raises(Unauthorized):
                    list(client.studies())
            else:
                assert list(client.studies()) == []
        return printed


def test_a_file_for_workers_is_refused_where_there_are_none(
    settings: Settings, tmp_path: Path
) -> None:
    with (
        pytest.raises(InvalidInput, match="config: is for workers"),
        serving(settings, auth=False, stop=threading.Event(), config=tmp_path / "worker.toml"),
    ):
        pass


def test_the_first_start_alone_prints_a_token(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNER_TOKEN", raising=False)
    assert "TUNER_TOKEN" not in started(settings, capsys, auth=False)
    assert "the first start" in started(settings, capsys)
    assert "TUNER_TOKEN" not in started(settings, capsys)


def test_it_starts_though_the_name_of_the_first_token_is_taken(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNER_TOKEN", raising=False)
    migrate.prepare(settings.database_url)
    context = Context.open(settings.database_url)
    tokens.create_token(context, "admin", ["read"])
    context.close()
    printed = started(settings, capsys)
    assert "tuner token create" in printed
