from pathlib import Path

import pytest

from tuner.errors import InvalidInput
from tuner.settings import Settings, page

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(), (
        "run: python -m tuner.settings > docs/settings.md"
    )


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "DATABASE_URL", "URL", "TOKEN", "PORT", "DATA_ROOTS", "CHECKPOINTS"):
        monkeypatch.delenv(f"TUNER_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_database_lies_in_the_home_by_default(tmp_path: Path) -> None:
    assert Settings.read().database_url == f"sqlite:///{tmp_path / '.tuner' / 'tuner.sqlite'}"
    assert Settings.read(home=tmp_path / "x").database_url == f"sqlite:///{tmp_path}/x/tuner.sqlite"


def test_the_environment_is_read_and_what_is_given_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_PORT", "9000")
    monkeypatch.setenv("TUNER_URL", "http://tuner.example:80")
    assert Settings.read().port == 9000
    assert Settings.read(port=1234, url=None).port == 1234
    assert Settings.read(url=None).url == "http://tuner.example:80"


def test_a_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TUNER_DATABASE_URL=postgresql://tuner@db/tuner\n")
    assert Settings.read().database_url == "postgresql://tuner@db/tuner"


def test_the_token_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_TOKEN", "open-sesame")
    settings = Settings.read()
    assert "open-sesame" not in repr(settings)
    assert settings.token is not None
    assert settings.token.get_secret_value() == "open-sesame"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TUNER_PORT", "99999"),
        ("TUNER_WORKERS", "-1"),
        ("TUNER_LEASE_SECONDS", "soon"),
        ("TUNER_LOG_LEVEL", "loud"),
        ("TUNER_MAX_ATTEMPTS", "0"),
    ],
)
def test_a_wrong_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput) as caught:
        Settings.read()
    assert caught.value.field == name


def test_a_lease_outlives_a_lost_heartbeat() -> None:
    with pytest.raises(InvalidInput, match="at most half"):
        Settings.read(lease_seconds=8, heartbeat_seconds=5)


def test_studies_may_name_files_in_the_working_directory_and_the_home(tmp_path: Path) -> None:
    assert Settings.read().data_roots == (tmp_path, tmp_path / ".tuner")
    assert Settings.read(home="/srv/tuner").data_roots == (tmp_path, Path("/srv/tuner"))


def test_other_folders_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_DATA_ROOTS", "/srv/data:/mnt/pictures")
    assert Settings.read().data_roots == (Path("/srv/data"), Path("/mnt/pictures"))
    monkeypatch.setenv("TUNER_DATA_ROOTS", "/srv/data:")
    assert Settings.read().data_roots == (Path("/srv/data"),)
    monkeypatch.setenv("TUNER_DATA_ROOTS", "")
    assert len(Settings.read().data_roots) == 2


def test_a_folder_for_checkpoints_is_from_here_and_an_address_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.read().checkpoints is None
    assert Settings.read(checkpoints="there").checkpoints == str(tmp_path / "there")
    monkeypatch.setenv("TUNER_CHECKPOINTS", "s3://bucket/prefix")
    assert Settings.read().checkpoints == "s3://bucket/prefix"
