"""The worker's own config file: which commands it runs, under which names.

.. code-block:: toml

    [scripts.my_llm]
    command = ["python", "train.py"]
    time_limit_seconds = 7200

Only whoever runs the worker can write it. A study names ``my_llm``, and nothing else reaches here.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tuner import tasks
from tuner.errors import InvalidInput
from tuner.protocol import LEAST_LOG_BYTES, LOG_BYTES, MOST_LOG_BYTES
from tuner.spec import ObjectiveSpec
from tuner.spec.study import Name, refused
from tuner.tasks import TaskForm

FILE = "worker.toml"
"""What the file is called in ``TUNER_HOME``, where it is found without being named."""
Word = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
Seconds = Annotated[float, Field(ge=0, le=10**8)]


class Part(BaseModel):
    """A frozen part of the file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Script(Part):
    """A program, run once for each trial of the studies that name it."""

    command: tuple[Word, ...] = Field(min_length=1, description="The program and its arguments.")
    directory: Path = Field(Path(), description="Where it runs; from the file's own folder.")
    environment: dict[Word, str] = Field(default_factory=dict, description="Further variables.")
    time_limit_seconds: Annotated[float, Field(gt=0, le=10**8)] | None = Field(
        None, description="Of one run; then the trial fails. A run may hang for ever without one."
    )
    grace_seconds: Seconds = Field(10.0, description="From SIGTERM to SIGKILL.")
    log_bytes: int = Field(
        LOG_BYTES, ge=LEAST_LOG_BYTES, le=MOST_LOG_BYTES, description="Kept of what it prints."
    )
    summary: str = Field("", max_length=2000, description="What it trains, for people.")
    objective: ObjectiveSpec = Field(
        ObjectiveSpec(metric="loss"), description="Of studies that name none."
    )
    metrics: tuple[Name, ...] | None = Field(
        None, min_length=1, description="What it reports; studies may then name nothing else."
    )

    @field_validator("command", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise ValueError('is a list of words, such as ["python", "train.py"]')
        return value

    def form(self, name: str) -> TaskForm:
        """What a server is told of it: never the command."""
        return TaskForm(
            name=name,
            kind="script",
            summary=self.summary,
            metrics=self.metrics,
            objective=(self.objective.metric, self.objective.direction),
        )

    def variables(self) -> dict[str, str]:
        """The environment it runs in, without what is nobody's business but the worker's.

        ``python`` is the worker's own unless the file or its ``PATH`` say otherwise.
        """
        found = {k: v for k, v in os.environ.items() if not k.startswith("TUNER_")}
        own = os.path.dirname(sys.executable)
        found["PATH"] = os.pathsep.join([own, found.get("PATH", os.defpath)])
        return {**found, **self.environment}


Scripts = Mapping[str, Script]


class WorkerConfig(Part):
    """The whole file."""

    scripts: dict[Name, Script] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the file, and looks whether its programs are there.

        Raises:
            InvalidInput: Names the file, or the field that is wrong in it.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput("config", f"{path} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise InvalidInput("config", f"{path} is not TOML: {error}") from error
        try:
            config = cls.model_validate(raw)
        except ValidationError as error:
            raise _in(path, refused(error)) from error
        folder = path.absolute().parent
        scripts = {}
        for name, script in config.scripts.items():
            placed = script.model_copy(update={"directory": folder / script.directory})
            try:
                _check(name, placed)
            except InvalidInput as error:
                raise _in(path, error) from error
            scripts[name] = placed
        return config.model_copy(update={"scripts": scripts})


def scripts_of(path: Path | None, home: Path) -> Scripts:
    """The scripts of the file named, else of the one in the home folder, if there is one.

    Raises:
        InvalidInput: The file is wrong, or the one named is not there.
    """
    if path is None:
        path = home / FILE
        if not path.exists():
            return {}
    return WorkerConfig.read(path).scripts


def _check(name: str, script: Script) -> None:
    at = f"scripts.{name}"
    if name in tasks.registry:
        raise InvalidInput(at, "there is a task of that name; call the script something else")
    if not script.directory.is_dir():
        raise InvalidInput(f"{at}.directory", f"{script.directory} is no folder")
    try:
        script.form(name)
    except ValidationError as error:
        raise InvalidInput(f"{at}.objective", refused(error).message) from error
    program = script.command[0]
    found = script.directory / program if "/" in program else program
    if shutil.which(found, path=script.variables()["PATH"]) is None:
        raise InvalidInput(f"{at}.command", f"{program!r} is no program that can be run here")


def _in(path: Path, error: InvalidInput) -> InvalidInput:
    message = error.message.removeprefix(f"{error.field}: ")
    return InvalidInput(error.field, f"{message} (in {path})")
