"""Parameters that several routes share: ids within what the database's columns hold, and paging."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query

StudyId = Annotated[int, Path(ge=1, lt=2**31, description="The study's id.", examples=[1])]
TrialId = Annotated[int, Path(ge=1, lt=2**63, description="The trial's id.", examples=[1])]
WorkerId = Annotated[int, Path(ge=1, lt=2**31, description="The worker's id.", examples=[1])]
Cursor = Annotated[
    str | None,
    Query(max_length=1000, description="``next_cursor`` of the page before; none: the first page."),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Rows of a page, at most.")]
Order = Literal["asc", "desc"]
StudyState = Literal["queued", "running", "paused", "stopping", "completed", "cancelled", "failed"]
TrialState = Literal["waiting", "running", "complete", "pruned", "fail"]
