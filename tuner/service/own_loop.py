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
from tuner.service.trials import show_trial
from tuner.service.turn import turn
from tuner.service.views import TrialView
from tuner.storage import studies, trials

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
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        if not study.spec:
            raise InvalidInput("study", "was made through Optuna: ask Optuna for its trials")
        probing, checked = study.probing, ctx.searches.plans.of(study)
    if probing:
        with turn(ctx, study_id, actor=actor) as this:
            probes.skip(this, "a loop of the user's own asked for trials")
    handed = from_study(
        ctx, study_id, k, None, seconds=ctx.settings.ask_seconds, origin="asked", actor=actor
    )
    out = []
    for _, row in handed or []:
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
    ctx: Context, trial_id: int, token: str, measured: Measured, *, actor: str | None = None
) -> SlotVerdict:
    """One evaluation of a trial; what it is to do next.

    Raises:
        NotFound: No such trial.
        LeaseLost: The token is not its present lease.
        InvalidInput: A metric is missing, or the step is beyond the training.
    """
    slot = SlotReport(trial_id=trial_id, token=token, measurements=[measured])
    return _deliver(ctx, slot, actor)


def renew_trial(ctx: Context, trial_id: int, token: str) -> datetime:
    """Prolongs the lease of a trial that has nothing to report yet.

    Returns:
        When it runs out now.

    Raises:
        LeaseLost: The token is not its present lease.
    """
    expires_at = ctx.now() + timedelta(seconds=ctx.settings.ask_seconds)
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
    with ctx.db.session() as session:
        study_id = trials.study_of(session, trial_id)
    with turn(ctx, study_id, actor=actor) as this:
        this.join()
        row = trials.lock(this.session, [trial_id]).get(trial_id)
        if row is None or not leases.owns(row, token):
            raise LeaseLost(trial_id)
        wanted = len(this.checked.objectives)
        if given is not None and len(given) != wanted:
            raise InvalidInput("values", f"has {len(given)} numbers; the study wants {wanted}")
        if given is not None:
            row.values = list(given)
        if state == "complete" and row.values is None:
            raise InvalidInput("values", "is missing: nothing was reported before")
        if state == "complete" and not all(math.isfinite(float(v)) for v in row.values or ()):
            state, reason = "fail", DIVERGED
        if state == "fail" or not all(math.isfinite(float(v)) for v in row.values or ()):
            row.values = None
        this.end(row, state, reason)
        this.settle()
    return show_trial(ctx, trial_id)


def _deliver(ctx: Context, slot: SlotReport, actor: str | None) -> SlotVerdict:
    with ctx.db.session() as session:
        study_id = trials.study_of(session, slot.trial_id)
    with turn(ctx, study_id, actor=actor) as this:
        verdict = take_in(ctx, this, [slot], [slot.trial_id], ctx.settings.ask_seconds)[
            slot.trial_id
        ]
        if verdict.action == "lost":
            raise LeaseLost(slot.trial_id)
    return verdict
