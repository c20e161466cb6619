"""Ask and tell: trials that a user's own loop runs, under the same leases as a worker's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tuner.errors import InvalidInput, LeaseLost
from tuner.protocol import Measured, SlotReport, SlotVerdict
from tuner.queue import leases
from tuner.service import probes
from tuner.service.context import Context
from tuner.service.reporting import DIVERGED, take_in
from tuner.service.supply import from_study
from tuner.service.turn import Turn
from tuner.service.turns import take, take_one, turn
from tuner.service.views import TrialView, trial_view

TOLD_STATES = ("complete", "pruned", "fail")


class Asked(BaseModel):
    """A trial for the user's loop."""

    model_config = ConfigDict(frozen=True)

    trial_id: int
    number: int
    token: str = Field(description="Every later write about this trial carries it.")
    config: dict[str, Any]
    until: int = Field(description="The step at which the service decides about it next.")
    max_step: int
    expires_at: datetime = Field(description="Unless something is reported before.")


def ask(ctx: Context, study_id: int, k: int = 1, *, actor: str | None = None) -> list[Asked]:
    """Up to ``k`` trials to run; none when the study has nothing to run now.

    Raises:
        NotFound: No such study.
        InvalidInput: ``k`` is no number of trials.
    """
    if not 1 <= k <= 10_000:
        raise InvalidInput("k", f"{k} is outside [1, 10000]")

    def waits(taken: dict[int, Turn]) -> bool:
        return any(this.study.probing for this in taken.values())

    if take(ctx, [study_id], waits):
        with turn(ctx, study_id, actor=actor) as this:
            probes.skip(this, "a loop of the user's own asked for trials")
    handed = from_study(
        ctx, study_id, k, None, seconds=ctx.settings.ask_seconds, origin="asked", actor=actor
    )
    ctx.searches.remember({row.id: study_id for _, row in handed or []})
    out = []
    for study, row in handed or []:
        checked = ctx.searches.plans.of(study)
        config = checked.space.fill(row.params)
        out.append(
            Asked(
                trial_id=row.id,
                number=row.number,
                token=row.lease_token or "",
                config=config,
                until=row.until,
                max_step=checked.max_step_of(config),
                expires_at=row.lease_expires_at or ctx.now(),
            )
        )
    return out


def report_trial(
    ctx: Context,
    trial_id: int,
    token: str,
    measured: Measured,
    *,
    lease_seconds: float | None = None,
    actor: str | None = None,
) -> SlotVerdict:
    """One evaluation of a trial; what it is to do next.

    Args:
        ctx: The service.
        trial_id: Which trial.
        token: Its lease.
        measured: What was measured.
        lease_seconds: How long it is held from now; ``ask_seconds`` unless given.
        actor: Who says so.

    Raises:
        NotFound: No such trial.
        LeaseLost: The token is not its present lease.
        InvalidInput: A metric is missing, or the step is beyond the training.
    """
    slot = SlotReport(trial_id=trial_id, token=token, measurements=[measured])

    def deliver(this: Turn) -> SlotVerdict:
        seconds = lease_seconds or ctx.settings.ask_seconds
        verdict = take_in(ctx, this, [slot], [trial_id], seconds)[trial_id]
        if verdict.action == "lost":
            raise LeaseLost(trial_id)
        return verdict

    return take_one(ctx, trial_id, deliver, actor=actor)


def renew_trial(
    ctx: Context, trial_id: int, token: str, *, lease_seconds: float | None = None
) -> datetime:
    """Gives a new lease to the holder of a trial that has nothing to report yet.

    Args:
        ctx: The service.
        trial_id: Which trial.
        token: Its lease.
        lease_seconds: How long it is held from now; ``ask_seconds`` unless given. Who gives signs
            of life asks for little, so that a trial is not held up by a loop that has died.

    Returns:
        When it runs out now.

    Raises:
        LeaseLost: The token is not its present lease.
    """
    expires_at = ctx.now() + timedelta(seconds=lease_seconds or ctx.settings.ask_seconds)
    with ctx.db.write() as session:
        if leases.renew(session, {trial_id: token}, expires_at):
            raise LeaseLost(trial_id)
    return expires_at


def tell(
    ctx: Context,
    trial_id: int,
    token: str,
    *,
    values: Sequence[float | None] | float | None = None,
    state: str = "complete",
    reason: str | None = None,
    actor: str | None = None,
) -> TrialView:
    """Ends a trial, with its objectives' values or with what became of it.

    Without ``values`` a complete trial keeps those of its last report. A value that is not finite
    makes it fail as diverged.

    Raises:
        NotFound: No such trial.
        LeaseLost: The token is not its present lease.
        InvalidInput: The state is none that ends a trial, or the values do not fit the study.
    """
    if state not in TOLD_STATES:
        raise InvalidInput("state", f"{state!r} is none of {', '.join(TOLD_STATES)}")
    given = None
    if values is not None:
        listed = [values] if isinstance(values, int | float) else list(values)
        given = [math.nan if v is None else float(v) for v in listed]

    def end(this: Turn) -> TrialView:
        if this.study.over:
            raise LeaseLost(trial_id)
        this.join()
        row = this.rows([trial_id])[trial_id]
        if not leases.owns(row, token):
            raise LeaseLost(trial_id)
        wanted = len(this.checked.objectives)
        if given is not None and len(given) != wanted:
            raise InvalidInput("values", f"has {len(given)} numbers; the study wants {wanted}")
        values = row.values if given is None else given
        if state == "complete" and values is None:
            raise InvalidInput("values", "is missing: nothing was reported before")
        finite = all(math.isfinite(float(v)) for v in values or ())
        last = this.last_points([row]).get(trial_id)
        row.values = list(values) if values is not None and finite and state != "fail" else None
        if state == "complete" and not finite:
            this.end(row, "fail", DIVERGED)
        else:
            this.end(row, state, reason)
        this.settle()
        return trial_view(row, this.checked, last, this.now)

    return take_one(ctx, trial_id, end, actor=actor)
