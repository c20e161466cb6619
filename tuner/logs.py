"""Logs with the ids that matter: which study, trial and worker a line is about.

Code logs as usual, with ``extra={"trial": 7}``; what :func:`bound` sets is added to every line of
its block. The text form is for people, the JSON form (one object a line) for collectors.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

_BOUND: ContextVar[Mapping[str, object]] = ContextVar("tuner_log_fields", default={})  # noqa: B039  (a mapping that nobody changes)
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_CHATTY = ("alembic", "httpx", "httpcore", "optuna", "urllib3")


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Adds ``fields`` (``study=3, trial=7``) to every line logged in the block, in this context."""
    token = _BOUND.set({**_BOUND.get(), **fields})
    try:
        yield
    finally:
        _BOUND.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What a record carries beyond the usual: its ``extra`` over what is bound now.

    Names that begin with an underscore are what libraries put there for themselves.
    """
    extra = {
        key: value
        for key, value in vars(record).items()
        if key not in _USUAL and not key.startswith("_")
    }
    return {**_BOUND.get(), **extra}


class Seldom:
    """For lines that many would say at once: one now and then, with how many were left out.

    Args:
        seconds: Between two lines about the same.
        now: A monotonic clock in seconds.
    """

    def __init__(self, seconds: float = 5.0, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def due(self, about: str) -> int | None:
        """How many lines were left out since the last one; None where this one is to be, too."""
        with self._lock:
            now = self._now()
            if now - self._said.get(about, -math.inf) < self._seconds:
                self._left_out[about] = self._left_out.get(about, 0) + 1
                return None
            self._said[about] = now
            return self._left_out.pop(about, 0)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Renders a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """``2026-01-31 12:30:01 info tuner.worker: message  study=3 trial=7``."""

    def format(self, record: logging.LogRecord) -> str:
        """Renders a record."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        fields = "".join(f" {key}={_plain(value)}" for key, value in fields_of(record).items())
        text = f"{at} {record.levelname.lower():7} {record.name}: "
        text += record.getMessage().replace("\n", "\n    ")
        text += f" {fields}" if fields else ""
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _plain(value: object) -> str:
    """A value as one word: a name that somebody chose must not forge a line of its own."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)


def configure(level: str = "info", *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Sets up the root logger, once, at the start of a process; a second call replaces the first.

    Args:
        level: The least severe level shown; libraries that talk much start at warning.
        as_json: JSON lines instead of text.
        stream: Where lines go; standard error by default, so that printed output stays clean.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Loaded later it would set a handler and a level of its own, over those below.
    from optuna import logging as of_optuna  # noqa: PLC0415  (slow to load, and only needed here)

    of_optuna.disable_default_handler()
    of_optuna.enable_propagation()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True
