"""How a study names an uploaded dataset: ``path: dataset:iris``.

Where it is submitted the content is pinned, ``dataset:iris@CHECKSUM.csv``: every trial of the study
trains on exactly that, wherever it is trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "dataset:"
_PINNED = re.compile(r"(?P<name>.+)@(?P<sha256>[0-9a-f]{64})\.(?P<format>[a-z]+)", re.DOTALL)


@dataclass(frozen=True)
class Reference:
    """A dataset as a study names it.

    Args:
        name: What it was uploaded as.
        sha256: The checksum of its content; empty until it is pinned.
        format: csv, parquet or npz; empty until it is pinned.
    """

    name: str
    sha256: str = ""
    format: str = ""

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}" + (f"@{self.file}" if self.sha256 else "")

    @property
    def file(self) -> str:
        """The name of the file that holds the content, on every machine."""
        return f"{self.sha256}.{self.format}"


def reference(value: object) -> Reference | None:
    """The dataset that a parameter names; None: it is something else."""
    if not isinstance(value, str) or not value.startswith(PREFIX):
        return None
    found = _PINNED.fullmatch(value.removeprefix(PREFIX))
    return Reference(**found.groupdict()) if found else Reference(value.removeprefix(PREFIX))


def replaced(
    params: Mapping[str, Any], names: Iterable[str], by: Callable[[str, Reference], str]
) -> dict[str, Any]:
    """``params`` in which whatever names a dataset is replaced.

    Args:
        params: Of a task.
        names: The parameters that may name files.
        by: Makes the new value of a parameter, from its name and what it refers to.
    """
    out = dict(params)
    for name in names:
        found = reference(params.get(name))
        if found is not None:
            out[name] = by(name, found)
    return out
