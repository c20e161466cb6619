"""Inside a script that a worker runs: what to train with, and where to say how it goes.

>>> import tuner.trial                                       # doctest: +SKIP
>>> trial = tuner.trial.current()                            # doctest: +SKIP
>>> model = build(**trial.params)                            # doctest: +SKIP
>>> for step in range(1, trial.max_step + 1):                # doctest: +SKIP
...     loss = train_and_evaluate(model)
...     if trial.report(step, loss=loss):
...         break

The worker names a JSON file in ``TUNER_TRIAL``. To try a script by hand, write one:
``{"params": {"lr": 0.1}, "max_step": 3}``. Then nobody listens: reports are printed, and the script
is told to stop after ``max_step``.

Needs the standard library alone, so that it loads at once and in any environment.
"""

from __future__ import annotations

import json
import operator
import os
import re
import socket
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

from tuner.errors import InvalidInput

FILE = "TUNER_TRIAL"
"""The environment variable that names the trial's file."""
PARAMETERS = "TUNER_PARAMS"
"""The variable that holds all parameters as JSON, for programs that read no file."""
LONGEST_NAME = 255
MOST_METRICS = 1000


def variable(name: str) -> str:
    """The environment variable that holds one parameter, such as ``TUNER_PARAM_LR``."""
    return "TUNER_PARAM_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


class Trial:
    """The trial that this process trains.

    Attributes:
        params: Constants of the space and suggested values together.
        seed: Of initialisation and the order of data; the study's.
        number: Among the trials of its study.
        study: The study's id.
        attempt: From 1; a worker that died makes it one more.
        start: The last step reported when this trial's checkpoint was last known; 0: none is.
        max_step: The step at which the training is complete.
        metrics: What every report must hold.
    """

    def __init__(self, told: Mapping[str, Any], folder: Path) -> None:
        """Reads what a trial's file says; see :func:`current`.

        Args:
            told: The file's content.
            folder: Where checkpoints go unless it says.
        """
        self.params: dict[str, Any] = dict(told["params"])
        self.seed = int(told.get("seed", 0))
        self.number = int(told.get("number", 0))
        self.study = int(told.get("study", 0))
        self.attempt = int(told.get("attempt", 1))
        self.start = int(told.get("start", 0))
        self.max_step = int(told.get("max_step", 1))
        self.metrics: tuple[str, ...] = tuple(told.get("metrics", ()))
        self._folder = Path(told.get("checkpoint_dir", folder))
        self._socket: str | None = told.get("socket")
        self._lock = threading.Lock()

    @property
    def checkpoint_dir(self) -> Path:
        """A folder for what it takes to go on: the next run of this trial finds it as it was left.

        It is deleted when the trial has ended.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def report(self, step: SupportsIndex, **metrics: SupportsFloat) -> bool:
        """Says what was measured after a step, and waits for an answer where a decision is due.

        Save what it takes to go on first: a trial that is told to stop may be resumed later.

        Args:
            step: Evaluation periods completed, from 1; it only rises.
            metrics: At least those in :attr:`metrics`.

        Returns:
            Whether to stop: the trial is complete, set aside, or not worth going on with. Then end
            the program within a few seconds.

        Raises:
            InvalidInput: A value is no number, or something is missing or out of range.
        """
        number, numbers = operator.index(step), numbers_of(metrics)
        if number < 1:
            raise InvalidInput("step", f"{number} is less than 1")
        if self._socket is None:
            shown = " ".join(f"{name}={value:.6g}" for name, value in numbers.items())
            sys.stdout.write(f"step {number}: {shown}\n")
            return number >= self.max_step
        with self._lock:
            answer = _ask(self._socket, {"step": number, "metrics": numbers})
        if "error" in answer:
            raise InvalidInput(answer.get("field", ""), str(answer["error"]))
        return bool(answer["stop"])


@cache
def current() -> Trial:
    """The trial that this process is.

    Raises:
        InvalidInput: No worker runs this script, or the trial's file cannot be read.
    """
    name = os.environ.get(FILE)
    if not name:
        raise InvalidInput(
            FILE,
            "is not set: this script is not run by a worker; to try it by hand, name a file there "
            'that holds {"params": {...}, "max_step": 1}',
        )
    path = Path(name)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Trial(told, path.with_suffix(".checkpoint"))
    except (OSError, ValueError) as error:
        raise InvalidInput(FILE, f"{name} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(FILE, f'{name} does not hold {{"params": {{...}}}}') from error


def numbers_of(metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """The metrics as plain numbers, be they of numpy or torch.

    Raises:
        InvalidInput: One is no number, its name is too long, or there are none or too many.
    """
    if not metrics or len(metrics) > MOST_METRICS:
        raise InvalidInput("metrics", f"give 1 to {MOST_METRICS} numbers by name, such as loss=0.3")
    found = {}
    for name, value in metrics.items():
        if len(name) > LONGEST_NAME:
            raise InvalidInput(f"metrics.{name[:20]}...", f"is longer than {LONGEST_NAME}")
        found[name] = number_of(value, f"metrics.{name}")
    return found


def number_of(value: SupportsFloat, field: str) -> float:
    """A plain number, whatever library it is of.

    Raises:
        InvalidInput: It is none; ``field`` names it.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InvalidInput(field, f"{value!r:.100} is not a number") from error


def _ask(address: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """One line to the worker, one line back; a worker that is gone wants nothing more."""
    line = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.connect(address)
            channel.sendall(json.dumps(said).encode() + b"\n")
            with channel.makefile("rb") as lines:
                line = lines.readline()
    except OSError as error:
        sys.stderr.write(f"tuner: the worker cannot be reached, stopping: {error}\n")
        return {"stop": True}
    if not line:
        sys.stderr.write("tuner: the worker has ended, stopping\n")
        return {"stop": True}
    answer: dict[str, Any] = json.loads(line)
    return answer
