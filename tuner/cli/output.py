"""What commands print: tables and sentences for people, one JSON document for programs.

Standard output carries results only; progress and errors go to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import IO, Any, cast

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text


class _Stderr:
    """Standard error as it is at the moment, except that what it cannot take is lost.

    A server whose log has filled the disk, or whose log's reader has gone, must go on.
    """

    def write(self, text: str) -> int:
        """Writes, if it can."""
        with suppress(OSError):
            self._now.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes, if it can."""
        with suppress(OSError):
            self._now.flush()

    @property
    def _now(self) -> IO[str]:
        # While rich draws, sys.stderr is a proxy that prints on the console that writes here.
        now: IO[str] = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)


_stderr = cast("IO[str]", _Stderr())
out = Console(highlight=False, soft_wrap=False)
err = Console(file=_stderr, stderr=True, highlight=False)


def print_json(value: object) -> None:
    """One JSON document; numbers that are not finite become their names."""
    json.dump(plain(value), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def plain(value: object) -> Any:
    """``value`` made of what JSON knows."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """A table; what a user named is shown as it is, never read as markup."""
    if title:  # above it: as a part of the table it would break where a narrow table ends
        out.print(Text(title, style="italic"))
    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    out.print(table)


def say(sentence: str) -> None:
    """A sentence to the person at the terminal; what it quotes does nothing to that."""
    out.print(Text("\n".join(map(shown, sentence.split("\n")))), soft_wrap=True)


def shown(value: object) -> str:
    """A value as a person reads it: six digits, no ``None``, no control characters."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    if isinstance(value, Mapping):
        return " ".join(f"{key}={shown(item)}" for key, item in value.items())
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value)
    )


def duration(seconds: float | None) -> str:
    """``95`` as ``1:35``; hours where there are any."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def complain(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    _stderr.write("tuner: " + shown(" ".join(message.split())) + "\n")
