"""Trials of a study, and one's own training loop: ask, report, tell."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Body, Query, status
from pydantic import BaseModel, ConfigDict, Field, field_validator

from api.problems import documented
from api.routers.parameters import (
    Cursor,
    Filters,
    Key,
    Limit,
    Order,
    StudyId,
    TrialId,
    TrialState,
    filters_of,
)
from api.security import Ctx, Reader, Submitter, TokenFirst
from tuner import service
from tuner.errors import Conflict, LeaseLost, NotFound
from tuner.protocol import Config, Measured, SlotVerdict
from tuner.service import Asked, LogView, MeasurementView, Page, TrialEvent, TrialView
from tuner.service.context import LONGEST_ASK_SECONDS

router = APIRouter(route_class=TokenFirst, tags=["trials"])

Token = Annotated[str, Field(max_length=64, description="The lease token of the answer to ask.")]
LeaseSeconds = Annotated[
    float | None,
    Field(
        ge=1,
        le=LONGEST_ASK_SECONDS,
        description="How long the trial is held from now; an hour unless given. Who renews often "
        "asks for little, so that nobody waits long for a loop that has died.",
    ),
]


Ending = Literal["complete", "pruned", "fail"]


class Enqueue(BaseModel):
    """Configurations to try next, before the sampler's own."""

    model_config = ConfigDict(extra="forbid")

    configs: list[Config] = Field(
        min_length=1, max_length=1000, examples=[[{"lr": 0.003, "batch_size": 64}]]
    )


class Ask(BaseModel):
    """How many configurations one's own loop wants."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(default=1, ge=1, le=1000)


class Renew(BaseModel):
    """A sign of life from one's own loop."""

    model_config = ConfigDict(extra="forbid")

    token: Token
    lease_seconds: LeaseSeconds = None


class Renewed(BaseModel):
    """How long the trial is held now."""

    expires_at: datetime


class OwnReport(Measured):
    """One evaluation in one's own loop."""

    token: Token
    lease_seconds: LeaseSeconds = None


class Tell(BaseModel):
    """How a trial of one's own loop ended: with values, or with a state and a reason."""

    model_config = ConfigDict(extra="forbid")

    token: Token
    values: list[float | None] | None = Field(
        default=None,
        max_length=32,
        description="Of each objective; null where it was not finite, and the trial fails as "
        "diverged.",
        examples=[[0.31]],
    )
    state: Ending | None = None
    reason: str | None = Field(default=None, max_length=10_000)

    @field_validator("values", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if value is None or isinstance(value, list):
            return value
        hint = f"; did you mean state: {value}?" if value in get_args(Ending) else ""
        raise ValueError(f"is not a list of numbers, one for each objective, such as [0.31]{hint}")


@router.get("/studies/{study_id}/trials", summary="List trials", responses=documented(NotFound))
def list_trials(
    context: Ctx,
    _principal: Reader,
    study_id: StudyId,
    state: TrialState | None = None,
    sort: Annotated[
        str,
        Query(max_length=128, description="number, value, state, ... or params.NAME"),
    ] = "number",
    order: Order = "asc",
    filter: Filters = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[TrialView]:
    """A page of trials in any order; the database sorts."""
    return service.list_trials(
        context,
        study_id,
        state=state,
        sort=sort,
        order=order,
        filters=filters_of(filter or []),
        cursor=cursor,
        limit=limit,
    )


@router.post(
    "/studies/{study_id}/trials",
    summary="Enqueue configurations",
    status_code=status.HTTP_201_CREATED,
    responses=documented(NotFound, Conflict),
)
def enqueue(
    context: Ctx, principal: Submitter, study_id: StudyId, wanted: Enqueue, key: Key = None
) -> list[TrialView]:
    """Queues given configurations ahead of what the sampler would try."""
    return service.enqueue(context, study_id, wanted.configs, actor=principal.name, key=key)


@router.get("/trials/{trial_id}", summary="Show a trial", responses=documented(NotFound))
def show_trial(context: Ctx, _principal: Reader, trial_id: TrialId) -> TrialView:
    """The trial's configuration, state, values and why it ended."""
    return service.show_trial(context, trial_id)


@router.get(
    "/trials/{trial_id}/measurements", summary="Measurements", responses=documented(NotFound)
)
def measurements(
    context: Ctx,
    _principal: Reader,
    trial_id: TrialId,
    after_step: Annotated[int, Query(ge=0, lt=2**31, description="Only later steps.")] = 0,
) -> list[MeasurementView]:
    """Every evaluation that was reported, by step."""
    return service.measurements(context, trial_id, after_step=after_step)


@router.get("/trials/{trial_id}/events", summary="What happened", responses=documented(NotFound))
def trial_events(context: Ctx, _principal: Reader, trial_id: TrialId) -> list[TrialEvent]:
    """Who had the trial and when, attempt by attempt, and what became of it."""
    return service.trial_events(context, trial_id)


@router.get("/trials/{trial_id}/log", summary="Log", responses=documented(NotFound))
def show_log(
    context: Ctx,
    _principal: Reader,
    trial_id: TrialId,
    attempt: Annotated[
        int | None, Query(ge=1, lt=2**31, description="Which attempt's; the last one's.")
    ] = None,
    after: Annotated[
        int, Query(ge=0, lt=2**63, description="The answer before's ``cursor``: only what is new.")
    ] = 0,
    tail: Annotated[
        int | None, Query(ge=0, le=1_000_000, description="The last lines, at most so many.")
    ] = None,
) -> LogView:
    """What the trial's script printed: of a long log the beginning and the end.

    Empty for a trial that is no script's. Ask again with ``after`` until ``ended``.
    """
    return service.show_log(context, trial_id, attempt=attempt, after=after, tail=tail)


@router.post("/trials/{trial_id}/stop", summary="Stop", responses=documented(NotFound, Conflict))
def stop_trial(context: Ctx, principal: Submitter, trial_id: TrialId) -> TrialView:
    """Ends the trial; its measurements stay."""
    return service.stop_trial(context, trial_id, actor=principal.name)


@router.post("/trials/{trial_id}/retry", summary="Retry", responses=documented(NotFound, Conflict))
def retry_trial(
    context: Ctx, principal: Submitter, trial_id: TrialId, key: Key = None
) -> TrialView:
    """Queues the same configuration once more, as a new trial."""
    return service.retry_trial(context, trial_id, actor=principal.name, key=key)


@router.post(
    "/studies/{study_id}/ask",
    summary="Ask for configurations",
    responses=documented(NotFound, Conflict),
)
def ask(
    context: Ctx,
    principal: Submitter,
    study_id: StudyId,
    wanted: Annotated[Ask, Body(default_factory=Ask)],
    key: Key = None,
) -> list[Asked]:
    """Up to ``k`` trials to train in one's own loop, each held under a lease token."""
    return service.ask(context, study_id, wanted.k, actor=principal.name, key=key)


@router.post(
    "/trials/{trial_id}/report",
    summary="Report an evaluation",
    responses=documented(NotFound, LeaseLost),
)
def report_trial(
    context: Ctx, principal: Submitter, trial_id: TrialId, report: OwnReport
) -> SlotVerdict:
    """Stores one evaluation, renews the lease, and says whether to go on. Safe to repeat."""
    measured = Measured(**report.model_dump(exclude={"token", "lease_seconds"}))
    return service.report_trial(
        context,
        trial_id,
        report.token,
        measured,
        lease_seconds=report.lease_seconds,
        actor=principal.name,
    )


@router.post(
    "/trials/{trial_id}/renew",
    summary="Renew a lease",
    responses=documented(NotFound, LeaseLost),
)
def renew_trial(context: Ctx, _principal: Submitter, trial_id: TrialId, renew: Renew) -> Renewed:
    """Keeps a trial of one's own loop that has nothing to report yet."""
    expires_at = service.renew_trial(
        context, trial_id, renew.token, lease_seconds=renew.lease_seconds
    )
    return Renewed(expires_at=expires_at)


@router.post(
    "/trials/{trial_id}/tell",
    summary="End a trial",
    responses=documented(NotFound, LeaseLost, Conflict),
)
def tell(context: Ctx, principal: Submitter, trial_id: TrialId, told: Tell) -> TrialView:
    """Ends a trial of one's own loop; told again, or after its last report, it stays as it is."""
    arguments: dict[str, Any] = told.model_dump(exclude={"token"}, exclude_none=True)
    return service.tell(context, trial_id, told.token, actor=principal.name, **arguments)
