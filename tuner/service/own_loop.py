"""Ask and tell: trials that a user's own loop runs, under the same leases as a worker's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tuner.errors import Conflict, InvalidInput, LeaseLost
from tuner.protocol import Measured, SlotReport, SlotVerdict
from tuner.queue import leases
from tuner.service import probes
from tuner.service.claims import AnsweredBefore, Claim
from tuner.service.context import Context
from tuner.service.receipts import digest, name
from tuner.service.reporting import DIVERGED, all_finite, take_in, violation
from tuner.service.supply import from_study, still_held
from tuner.service.turn import Turn
from tuner.service.turns import take_one, turn
from tuner.service.views import TrialView, trial_view
from tuner.storage import trials
from tuner.storage.trials import TrialRow

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
    device_seconds: float = Field(
        default=0.0, description="What it has taken so far, from which reports count on."
    )


def ask(
    ctx: Context,
    study_id: int,
    k: int = 1,
    *,
    actor: str | None = None,
    key: str | None = None,
) -> list[Asked]:
    """Up to ``k`` trials to run; none when the study has nothing to run now.

    Args:
        ctx: The service.
        study_id: Of which study.
        k: How many at most.
        actor: Who asks.
        key: The asker's name for this request: asked again, it gets the same trials.

    Raises:
        NotFound: No such study.
        InvalidInput: ``k`` is no number of trials, or the key names another request.
    """
    if not 1 <= k <= 10_000:
        raise InvalidInput("k", f"{k} is outside [1, 10000]")

    claim = Claim(
        None,
        None if key is None else name("ask", (actor, study_id), key),
        seconds=ctx.settings.ask_seconds,
        origin="asked",
        actor=actor,
        said=digest({"k": k}),
    )
    try:
        if claim.key is not None:
            with ctx.db.peek() as connection:
                claim.refuse_repeated(connection)
        handed = from_study(ctx, study_id, k, claim) or []
        if not handed and _skip_probe(ctx, study_id, actor):
            handed = from_study(ctx, study_id, k, claim) or []
    except AnsweredBefore as before:
        handed = still_held(ctx, before.token, study_id=study_id).trials
    ctx.searches.remember({row.id: study_id for _, row in handed})
    out = []
    for study, row in handed:
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
                device_seconds=row.device_seconds,
            )
        )
    return out


def _skip_probe(ctx: Context, study_id: int, actor: str | None) -> bool:
    """Goes without the range test, for which no worker of ours may ever come."""
    with turn(ctx, study_id, actor=actor) as this:
        probing = this.study.probing
        if probing:
            probes.skip(this, "a loop of the user's own asked for trials")
        return probing


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
        When it runs out now; for a trial that its holder has ended, when that was.

    Raises:
        NotFound: No such trial.
        LeaseLost: The token is not its present lease.
    """
    expires_at = ctx.now() + timedelta(seconds=lease_seconds or ctx.settings.ask_seconds)
    with ctx.db.brief() as direct:
        if not leases.renew(direct, {trial_id: token}, expires_at):
            return expires_at
    with ctx.db.session() as session:
        row = trials.get(session, trial_id)
        if not leases.ended(row, token):
            raise LeaseLost(trial_id)
        return row.finished_at or expires_at


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
    makes it fail as diverged. A constraint whose metric was never reported counts as broken. What
    has ended under this token already, by its last report or by the same words, stays as it is.

    Raises:
        NotFound: No such trial.
        LeaseLost: The token is not its present lease.
        Conflict: It ended under this token, but otherwise than this says.
        InvalidInput: The state is none that ends a trial, or the values do not fit the study.
    """
    if state not in TOLD_STATES:
        raise InvalidInput("state", f"{state!r} is none of {', '.join(TOLD_STATES)}")
    given = None
    if values is not None:
        listed = [values] if isinstance(values, int | float) else list(values)
        given = [math.nan if v is None else float(v) for v in listed]

    def end(this: Turn) -> TrialView:
        if not this.study.over:
            this.join()
        row = this.rows([trial_id])[trial_id]
        last = this.last_point(row)
        if leases.ended(row, token):
            _agree(row, state, given)
        elif leases.owns(row, token):
            _end(this, row, state, given, reason)
        else:
            raise LeaseLost(trial_id)
        return trial_view(row, this.checked, last, this.now)

    return take_one(ctx, trial_id, end, actor=actor)


def _end(
    this: Turn, row: TrialRow, state: str, given: list[float] | None, reason: str | None
) -> None:
    """Carries out what was told."""
    wanted = len(this.checked.objectives)
    if given is not None and len(given) != wanted:
        raise InvalidInput("values", f"has {len(given)} numbers; the study wants {wanted}")
    values = row.values if given is None else given
    if state == "complete" and values is None:
        raise InvalidInput("values", "is missing: nothing was reported before")
    finite = all_finite(values or ())
    row.values = list(values) if values is not None and finite else None
    if state == "complete" and not finite:
        state, reason = "fail", DIVERGED
    constraint = this.checked.spec.constraint
    if state == "complete" and constraint is not None and row.constraint is None:
        row.constraint = violation(constraint, {})  # nobody can say that it is kept
    this.end(row, state, reason, told=True)
    this.settle()


def _agree(row: TrialRow, state: str, given: list[float] | None) -> None:
    """Whether a trial ended as it is told now.

    Raises:
        Conflict: It did not.
    """
    if state == "complete" and given is not None and not all_finite(given):
        state, given = "fail", None
    same = given is None or row.values is None or given == [float(v) for v in row.values]
    if state != row.state or not same:
        raise Conflict(
            f"trial {row.id} has ended already: {row.state}"
            + ("" if row.values is None else f" with {', '.join(map(str, row.values))}"),
            state=row.state,
            values=row.values,
        )
