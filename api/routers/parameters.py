"""Parameters that several routes share: ids within what the database's columns hold, and paging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Header, Path, Query

from tuner.errors import InvalidInput
from tuner.service.receipts import HEADER

PARAMS = "params."
StudyId = Annotated[int, Path(ge=1, lt=2**31, description="The study's id.", examples=[1])]
TrialId = Annotated[int, Path(ge=1, lt=2**63, description="The trial's id.", examples=[1])]
WorkerId = Annotated[int, Path(ge=1, lt=2**31, description="The worker's id.", examples=[1])]
Cursor = Annotated[
    str | None,
    Query(max_length=1000, description="``next_cursor`` of the page before; none: the first page."),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Rows of a page, at most.")]
Filters = Annotated[
    list[str] | None,
    Query(
        max_length=50,
        description="NAME:VALUE, NAME:LOW..HIGH or NAME:A|B of a hyperparameter, or of ``value``, "
        "the first objective. Choices may also be named one by one; a hyperparameter that is named "
        "value is ``params.value``, one that is named params.x ``params.params.x``.",
    ),
]
Key = Annotated[
    str | None,
    Header(
        alias=HEADER,
        min_length=1,
        max_length=255,
        description="The sender's name for this request. Sent again under it within an hour, it "
        "makes nothing new and is answered as before; another request under it is refused.",
    ),
]
Order = Literal["asc", "desc"]
StudyState = Literal["queued", "running", "paused", "stopping", "completed", "cancelled", "failed"]
TrialState = Literal["waiting", "running", "paused", "complete", "pruned", "fail"]
"""What lists go by: trials that were set aside (``paused``) are not among the running ones."""


def filters_of(given: Sequence[str]) -> dict[str, list[str]]:
    """``lr:0.001..0.01`` and ``schedule:cosine`` as the service takes them.

    Raises:
        InvalidInput: One has no colon.
    """
    found: dict[str, list[str]] = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon:
            raise InvalidInput("filter", f"{text!r} is not NAME:VALUE or NAME:LOW..HIGH")
        plain = name != "value" and not name.startswith(PARAMS)
        found.setdefault(f"{PARAMS}{name}" if plain else name, []).append(value)
    return found


def filter_name(parameter: str) -> str:
    """What a filter calls a hyperparameter: its name, unless that means something else there."""
    plain = parameter != "value" and not parameter.startswith(PARAMS)
    return parameter if plain else f"{PARAMS}{parameter}"
