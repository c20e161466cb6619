"""The database: tables, one repository per aggregate, and the door for Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuner.storage.engine import Database

if TYPE_CHECKING:
    from tuner.storage.optuna import SqlStorage

__all__ = ["Database", "SqlStorage"]


def __getattr__(name: str) -> object:
    """Loads the door on first use: half a second that few commands need."""
    if name == "SqlStorage":
        from tuner.storage.optuna import SqlStorage  # noqa: PLC0415  (that is the point)

        return SqlStorage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
