"""Commands that need no server: what they print, and what becomes of wrong input."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import typer

from tuner import __version__
from tuner.cli import demo, main
from tuner.cli.main import app
from tuner.cli.output import complain, duration, err, plain, say, shown
from tuner.storage import migrate
from tuner.storage.models import STUDY_STATES


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TUNER_HOME", "TUNER_DATABASE_URL", "TUNER_URL", "TUNER_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tuner {__version__}\n"


def test_the_commands_of_the_contract_are_there() -> None:
    group = typer.main.get_command(app)
    commands = set(getattr(group, "commands", {}))
    long = {"demo", "serve", "worker", "run"}
    wanted = long | {"submit", "studies", "show", "export", "advise", "token", "db"}
    assert wanted <= commands


def test_every_command_that_prints_an_answer_takes_json() -> None:
    def without(command: Any, path: str) -> Iterator[str]:
        parts: dict[str, Any] = getattr(command, "commands", {})
        if not parts or command.invoke_without_command:
            options = [name for parameter in command.params for name in parameter.opts]
            if "--json" not in options:
                yield path
        for name, part in parts.items():
            yield from without(part, f"{path} {name}".strip())

    assert list(without(typer.main.get_command(app), "")) == ["serve", "worker"]


def test_the_states_that_studies_can_be_listed_by_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["studies", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(state in shown for state in STUDY_STATES)


def test_the_known_error_of_the_square_root(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["advise", "scale", "--lr", "5e-4", "--batch", "128", "--to", "1024"]
    assert main([*arguments, "--rule", "sqrt", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["config"]["lr"] == pytest.approx(0.00141421, rel=1e-5)
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "rises from 0.0005 to 0.00141421" in told
    assert "Measured rises flatten" in told


def test_further_settings_are_numbers_too(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["advise", "scale", "--lr", "1e-3", "--batch", "64", "--to", "128"]
    assert main([*arguments, "--rule", "sde", "--set", "eps=1e-8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["eps"] == pytest.approx(1e-8 / 2**0.5)


WRONG: list[tuple[list[str], str]] = [
    (["advise", "scale", "--lr", "0", "--batch", "8", "--to", "16"], "lr"),
    (["advise", "scale", "--lr", "1", "--batch", "0", "--to", "16"], "batch_size"),
    (["advise", "scale", "--lr", "1", "--batch", "8", "--to", "16", "--rule", "x"], "rule"),
    (["advise", "scale", "--lr", "1", "--batch", "8", "--to", "9", "--set", "x"], "set"),
    (
        ["advise", "scale", "--lr", "1", "--batch", "8", "--to", "9", "--set", "x=2020-13-45"],
        "set.x",
    ),
    (["advise", "scale", "--lr", "one", "--batch", "8", "--to", "16"], "--lr"),
    (["advise", "scale"], "--lr"),
    (["no-such-command"], "no-such-command"),
    (["submit", "no/such/file.yaml"], "file"),
    (["run", "no/such/file.yaml"], "file"),
    (["db", "upgrade", "--database-url", "mysql://x/y"], "database_url"),
    (["db", "upgrade", "no-such-revision"], "revision"),
    (["token", "create", "--name", "n", "--scope", "read"], "TUNER_HOME or TUNER_DATABASE_URL"),
    (["token", "list"], "TUNER_HOME or TUNER_DATABASE_URL"),
    (["token", "revoke", "n"], "TUNER_HOME or TUNER_DATABASE_URL"),
    *(
        (["token", "create", "--name", "n", "--scope", "read", "--days", days], "days")
        for days in ("1e10", "nan", "0", "-1")
    ),
    (["serve", "--host", "0.0.0.0"], "host"),
    (["serve", "--host", "0.0.0.0", "--no-auth"], "no_auth"),
    (["serve", "--no-auth", "--behind-proxy"], "no_auth"),
    (["serve", "--port", "70000"], "PORT"),
    (["studies", "--url", "ftp://host"], "url"),
]


@pytest.mark.parametrize(
    ("arguments", "names"),
    WRONG,
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else value,
)
def test_wrong_input_is_one_line_that_names_it(
    arguments: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tuner: ")
    assert names in printed.err
    assert printed.err.count("\n") == 1


def test_a_server_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.transport._BACK_OFF", lambda _state: 0.0)
    assert main(["studies", "--url", "http://127.0.0.1:1"]) == 1
    printed = capsys.readouterr()
    assert "is `tuner serve` running?" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "home", "code", "says"),
    [
        (["db", "upgrade"], "/proc/nowhere", 2, "nor can it be made"),
        (["serve"], "/proc/nowhere", 2, "nor can it be made"),
        (["token", "list"], "damaged", 1, "damaged, or is none"),
        (["db", "upgrade"], "damaged", 1, "damaged, or is none"),
        (["serve"], "damaged", 1, "damaged, or is none"),
    ],
    ids=str,
)
def test_a_home_that_is_of_no_use_is_one_line(
    command: list[str],
    home: str,
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("damaged").mkdir()
    Path("damaged/tuner.sqlite").write_bytes(b"no database" * 1000)
    monkeypatch.setenv("TUNER_HOME", home)
    assert main(command) == code
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("options", [["--json"], ["--exit"]])
def test_a_demo_whose_study_failed_says_so(
    monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    client = MagicMock()
    client.return_value.__enter__.return_value.best.return_value = []
    study = SimpleNamespace(id=1, state="failed")
    monkeypatch.setattr("tuner.client.Client", client)
    monkeypatch.setattr(demo, "serving", lambda *_args, **_options: nullcontext("http://here"))
    monkeypatch.setattr(demo, "named", lambda _client, spec: spec)
    monkeypatch.setattr(demo, "watch", lambda *_args, **_options: study)
    monkeypatch.setattr(demo, "report", lambda *_args: None)
    assert main(["demo", *options]) == 1


def test_a_demo_without_a_home_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--home", "/proc/nowhere"]) == 2
    assert capsys.readouterr().err.startswith("tuner: home: there is no folder /proc/nowhere")


def test_the_database_goes_up_and_down(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "current", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert before["revision"] is None
    assert main(["db", "upgrade"]) == 0
    assert "up to date" in capsys.readouterr().out
    assert main(["db", "downgrade", "base", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revision"] == "base"
    assert Path(".tuner/tuner.sqlite").is_file()


@pytest.mark.parametrize("revision", ["0001", "0006", "base"])
def test_no_downgrade_loses_anything_unasked(
    revision: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["db", "upgrade"]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    capsys.readouterr()
    assert main(["db", "downgrade", revision]) == 2
    printed = capsys.readouterr()
    assert "receipts (0 rows)" in printed.err
    assert "--yes" in printed.err
    assert printed.err.count("\n") == 1

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(["db", "downgrade", revision]) == 130
    assert "receipts (0 rows)" in capsys.readouterr().err
    assert main(["db", "current"]) == 0
    assert "up to date" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(["db", "downgrade", revision, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revision"] != migrate.head()


def test_a_downgrade_that_loses_nothing_asks_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["db", "upgrade"]) == 0
    assert main(["db", "downgrade", migrate.head()]) == 0
    assert "up to date" in capsys.readouterr().out


def test_a_database_password_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://me:s3cret@127.0.0.1:1/x"
    assert main(["db", "current", "--database-url", url]) == 1
    printed = capsys.readouterr()
    assert "s3cret" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("name", "scope", "field"), [("n", "everything", "scope"), ("", "read", "name")]
)
def test_a_token_that_cannot_be_is_one_line(
    name: str, scope: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["db", "upgrade"]) == 0
    capsys.readouterr()
    assert main(["token", "create", "--name", name, "--scope", scope]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"tuner: {field}")
    assert printed.err.count("\n") == 1


def test_a_token_of_no_server_is_not_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "create", "--name", "n", "--scope", "read"]) == 2
    assert "there is no database" in capsys.readouterr().err
    assert not Path(".tuner").exists()


def test_a_token_lives_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "upgrade"]) == 0
    capsys.readouterr()
    create = ["token", "create", "--name", "ci", "--scope", "read", "--scope", "submit"]
    assert main([*create, "--days", "1"]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("tuner_")
    assert main(create) == 1
    assert "ci" in capsys.readouterr().err
    assert main(["token", "list", "--json"]) == 0
    listed = capsys.readouterr().out
    (row,) = json.loads(listed)
    assert (row["scopes"], row["active"]) == (["read", "submit"], True)
    assert secret not in listed
    assert main(["token", "revoke", "ci"]) == 0
    capsys.readouterr()
    assert main(["token", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["active"] is False
    for nobody in ("nobody", "0", "99", str(2**31), 5000 * "9"):
        assert main(["token", "revoke", nobody]) == 1


def test_a_token_is_found_by_its_name_before_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "upgrade"]) == 0
    for name in ("first", "1"):
        assert main(["token", "create", "--name", name, "--scope", "read"]) == 0
    for key in ("1", "2"):
        capsys.readouterr()
        assert main(["token", "revoke", key]) == 0
        assert capsys.readouterr().out == "token 2 (1) is revoked\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (95, "1:35"), (3600, "1:00:00"), (None, "–"), (float("inf"), "–")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_what_is_said_or_complained_of_does_nothing_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("two\nlines: \x1b]0;title\x07\r")
    complain("no \x1b[2Jscreen")
    told = capsys.readouterr()
    assert told.out == "two\nlines: \\x1b]0;title\\x07\\r\n"
    assert told.err == "tuner: no \\x1b[2Jscreen\n"


def test_what_standard_error_cannot_take_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's log has filled the disk, or whoever read it has gone."""

    class Broken(io.StringIO):
        def __init__(self, error: OSError) -> None:
            super().__init__()
            self.error: OSError | None = error

        def write(self, text: str) -> int:
            if self.error is not None:
                raise self.error
            return super().write(text)

    for error in (OSError(28, "No space left on device"), BrokenPipeError()):
        log = Broken(error)
        monkeypatch.setattr("sys.stderr", log)
        err.print("lost")
        complain("lost")
        log.error = None
        err.print("there is space again")
        assert log.getvalue() == "there is space again\n"


def test_values_are_shown_without_control_characters() -> None:
    assert shown("a\x1b[31mred") == "a\\x1b[31mred"
    assert shown("µ\x9b31m") == "µ\\x9b31m"
    assert shown({"lr": 0.00123456789, "n": 3}) == "lr=0.00123457 n=3"
    assert plain({"x": float("nan"), "y": (1, float("-inf"))}) == {"x": "nan", "y": [1, "-inf"]}
