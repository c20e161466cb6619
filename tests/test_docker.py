"""The Docker files name only what exists: commands, options, variables, paths, services."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tuner.cli.main import app
from tuner.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OUTSIDE = {
    "POSTGRES_PASSWORD",
    "PIP_EXTRA_INDEX_URL",
    "TUNER_WORKER_TOKEN",
    "TUNER_PORT",
    "TUNER_WEBHOOK_HOSTS",
}
CACHES = {"TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"}


def ours() -> list[str]:
    return [
        name for name, service in SERVICES.items() if service.get("image", "").startswith("tuner")
    ]


def parsed(arguments: list[str]) -> None:
    """Parses a command line all the way down, without running it."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands"):
        assert rest, f"{arguments} ends in a group"
        name = rest.pop(0)
        assert name in command.commands, f"there is no command {name!r} in {arguments}"
        command = command.commands[name]
    command.make_context(command.name, rest, resilient_parsing=False).close()


def instruction(name: str) -> list[str]:
    joined = re.sub(r"\\\n", " ", DOCKERFILE)
    return re.findall(rf"^{name}\s+(.*)$", joined, re.MULTILINE)


def test_every_service_that_is_asked_for_is_there() -> None:
    assert {"db", "migrate", "api", "worker", "worker-gpu"} <= set(SERVICES)
    assert SERVICES["worker"]["profiles"] == ["cpu"]
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    devices = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("name", ours())
def test_commands_and_their_options_exist(name: str) -> None:
    parsed(SERVICES[name]["command"])


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_a_worker_can_write_what_it_compiles(name: str) -> None:
    assert SERVICES[name]["read_only"]
    assert all(SERVICES[name]["environment"][cache].startswith("/tmp/") for cache in CACHES)


def test_the_image_runs_a_command_that_exists() -> None:
    (command,) = instruction("CMD")
    parsed(yaml.safe_load(command))
    assert instruction("ENTRYPOINT") == ['["tuner"]']


@pytest.mark.parametrize("name", ours())
def test_variables_are_settings(name: str) -> None:
    known = {f"TUNER_{field}".upper() for field in Settings.model_fields}
    assert set(SERVICES[name]["environment"]) <= known | {"PGPASSWORD", *CACHES}
    in_image = {pair.partition("=")[0] for line in instruction("ENV") for pair in line.split()}
    assert {variable for variable in in_image if variable.startswith("TUNER_")} <= known


def test_what_the_shell_must_give_is_known_and_optional() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = re.findall(r"\$\{(\w+)(:?-)?", text)
    assert {name for name, _ in used} == OUTSIDE
    assert all(default for _, default in used), "a variable without a default stops every command"


def test_dependencies_volumes_and_health_fit_together() -> None:
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
            if condition["condition"] == "service_completed_successfully":
                assert SERVICES[other]["restart"] == "no"
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in COMPOSE["volumes"]


def test_the_database_is_reached_by_the_name_and_user_it_has() -> None:
    database = SERVICES["db"]["environment"]
    for name in ("migrate", "api"):
        told = SERVICES[name]["environment"]
        url = f"postgresql://{database['POSTGRES_USER']}@db/{database['POSTGRES_DB']}"
        assert told["TUNER_DATABASE_URL"] == url, "any character of a password passes beside it"
        assert told["PGPASSWORD"] == database["POSTGRES_PASSWORD"]


@pytest.mark.parametrize("name", SERVICES)
def test_logs_do_not_fill_the_disk(name: str) -> None:
    assert {"max-size", "max-file"} <= set(SERVICES[name]["logging"]["options"])


def test_the_port_is_published_to_this_machine_only() -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["api"]["ports"])
    assert "ports" not in SERVICES["db"]


def test_copied_paths_exist_and_are_let_through() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    for line in instruction("COPY"):
        if line.startswith("--from"):
            continue
        for source in line.split()[:-1]:
            path = source.removeprefix("./")
            assert (ROOT / path).exists(), path
            assert path in allowed, f"{path} is ignored"


def test_the_image_does_not_run_as_root() -> None:
    assert instruction("USER") == ["tuner"]
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nENTRYPOINT")


def test_optimizer_steps_can_be_compiled() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"apt-get install .*g\+\+", final)
    assert final.index("g++") < final.index("\nUSER ")
    for name in ours():
        # A tmpfs of Docker's forbids otherwise to load what was compiled there.
        assert SERVICES[name]["tmpfs"] == ["/tmp:exec"]


def test_compose_itself_takes_the_file() -> None:
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run(
            [docker, "compose", "version"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("docker compose is not installed here")
    subprocess.run(
        [docker, "compose", "--profile", "cpu", "--profile", "gpu", "config", "--quiet"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
