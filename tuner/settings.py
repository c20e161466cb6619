"""What a process is told from outside: read once at its start, then passed down.

Every setting is an environment variable with the prefix ``TUNER_``, such as ``TUNER_DATABASE_URL``;
a ``.env`` file in the working directory may hold them too. Nothing else reads the environment.

``python -m tuner.settings > docs/settings.md`` writes the page of them anew; a test compares.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tuner.errors import InvalidInput

LogLevel = Literal["debug", "info", "warning", "error"]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """The settings of one process: server, worker or command.

    ``TUNER_DATABASE_URL`` defaults to a SQLite file inside ``TUNER_HOME``.
    """

    model_config = SettingsConfigDict(
        env_prefix="TUNER_", env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True
    )

    home: Path = Field(Path(".tuner"), description="Database, checkpoints, datasets and logs.")
    checkpoints: str | None = Field(
        None,
        description="Where checkpoints go, if not to TUNER_HOME: a folder, or an address that "
        "fsspec knows, such as s3://BUCKET/PREFIX.",
    )
    checkpoint_seconds: float = Field(60.0, gt=0, description="How often a trial is saved.")
    database_url: str = Field(
        "",
        description="postgresql://USER@HOST/NAME or sqlite:///FILE, which by default is in "
        "TUNER_HOME.",
    )
    url: str = Field("http://127.0.0.1:8420", description="The server that commands talk to.")
    token: SecretStr | None = Field(None, description="What a command shows to the server.")
    wait_seconds: float = Field(
        300.0,
        ge=0,
        description="How long a worker that starts waits for its server, and a server for its "
        "database.",
    )

    host: str = Field("127.0.0.1", description="The address that the server binds.")
    port: Port = Field(8420, description="The port that the server binds; 0 takes a free one.")
    workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Local workers of `serve`; by default one a GPU, or without one, one a core up "
        "to 8.",
    )
    root_path: str = Field("", description="The path under which a proxy shows the server.")
    app: str = Field("api.app:create_app", description="What makes the HTTP application.")
    behind_proxy: bool = Field(False, description="A proxy in front ends TLS and sets headers.")
    plain_http: bool = Field(False, description="Bind beyond loopback although nothing ends TLS.")
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="Largest request body.")

    max_dataset_bytes: int = Field(
        2**30, ge=1024, description="Largest dataset, as it is uploaded and as it unpacks."
    )

    data_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Folders (with : between them) below which studies sent to the server may name "
        "files; the working directory and TUNER_HOME unless given.",
    )

    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts (with commas between them) that webhooks may reach although their "
        "address is private, and without TLS.",
    )

    lease_seconds: float = Field(30.0, gt=0, description="A lease's life without a heartbeat.")
    heartbeat_seconds: float = Field(5.0, gt=0, description="How often a worker sends a heartbeat.")
    max_attempts: int = Field(
        3, ge=1, description="Workers that may die over a trial without its coming further."
    )

    log_level: LogLevel = Field(
        "info", description="The least severe line that is logged: debug, info, warning or error."
    )
    log_json: bool = Field(False, description="One JSON object a line instead of text.")

    ci: str = Field("", validation_alias="CI", description="Set where nobody watches the terminal.")

    @field_validator("checkpoints")
    @classmethod
    def _place(cls, value: str | None) -> str | None:
        """A relative folder is one from here, whoever is told of it."""
        if value is None or "://" in value or "::" in value:
            return value
        return str(Path(value).absolute())

    @field_validator("data_roots", mode="before")
    @classmethod
    def _folders(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [part for part in value.split(os.pathsep) if part]  # none is no folder, not this one

    @field_validator("webhook_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(host for part in value.split(",") if (host := part.strip()))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                "TUNER_HEARTBEAT_SECONDS must be at most half of TUNER_LEASE_SECONDS, "
                "so that one lost heartbeat loses no lease"
            )
        if not self.database_url:
            # frozen, but not yet seen by anyone
            file = self.home.absolute() / "tuner.sqlite"
            object.__setattr__(self, "database_url", f"sqlite:///{file}")
        if not self.data_roots:
            object.__setattr__(self, "data_roots", (Path.cwd(), self.home.absolute()))
        return self

    def make_home(self) -> None:
        """Makes the home, for its owner alone, where there is none.

        Raises:
            InvalidInput: It cannot be made.
        """
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            reason = f"there is no folder {self.home}, nor can it be made: {error.strerror}"
            raise InvalidInput("home", reason) from error

    @property
    def checkpoint_root(self) -> str:
        """Where checkpoints go."""
        return self.checkpoints or str(self.home.absolute() / "checkpoints")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def secret(self) -> str | None:
        """The token as it is sent."""
        return self.token.get_secret_value() if self.token else None

    @property
    def in_ci(self) -> bool:
        """Whether this runs in continuous integration, where nothing may wait for a person."""
        return self.ci.lower() not in ("", "0", "false")

    @classmethod
    def read(cls, **given: object) -> Settings:
        """Reads the environment; values in ``given`` that are not None win over it.

        Raises:
            InvalidInput: A variable has a value that cannot be used; ``field`` is its name.
        """
        try:
            return cls.model_validate({k: v for k, v in given.items() if v is not None})
        except ValidationError as error:
            raise _refused(error) from error


def _refused(error: ValidationError) -> InvalidInput:
    first = error.errors()[0]
    name = "TUNER_" + "_".join(str(part) for part in first["loc"]).upper() if first["loc"] else ""
    message = first["msg"].removeprefix("Value error, ")
    return InvalidInput(name, message)


INTRODUCTION = """\
# Settings

<!-- Generated: python -m tuner.settings > docs/settings.md -->

Each is an environment variable, or a line of a `.env` file in the working directory. They are read
once, as a process starts; an option of a command wins over its setting.

| setting | default | what |
|-|-|-|
"""


def page() -> str:
    """``docs/settings.md``."""
    rows = []
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"TUNER_{name.upper()}"
        default = "" if field.default in (None, "", ()) else f"`{field.default}`"
        rows.append(f"| `{variable}` | {default} | {field.description} |\n")
    return INTRODUCTION + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(page())
