"""What a user does with a study that is there: change, pause, resume, stop, cancel, delete."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tuner.errors import Conflict, InvalidInput
from tuner.service import checkpoints
from tuner.service.context import Context
from tuner.service.datasets import located
from tuner.service.names import check_name
from tuner.service.offers import form_of
from tuner.service.probes import skip as skip_probe
from tuner.service.studies import show_study
from tuner.service.turn import STOPPED, Turn
from tuner.service.turns import turn
from tuner.service.views import StudyView
from tuner.spaces import Space, widen
from tuner.spec import BudgetSpec, StudySpec, check, unsaid
from tuner.storage import checkpoints as stored
from tuner.storage import studies
from tuner.storage.studies import OPEN_STATES, REOPENED_STATES


class StudyPatch(BaseModel):
    """What may change while a study lives. What is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str | None = Field(None, min_length=1, max_length=255)
    priority: int | None = Field(None, ge=-1000, le=1000)
    max_concurrent: int | None = Field(None, ge=1, le=65536, description="null: no bound")
    tags: list[str] | None = Field(None, max_length=50)
    description: str | None = Field(None, max_length=10_000)
    budget: BudgetSpec | None = Field(None, description="An ended study goes on with more.")
    space: dict[str, Any] | None = Field(None, description="Wider than before.")


def update_study(
    ctx: Context, study_id: int, patch: StudyPatch, *, actor: str | None = None
) -> StudyView:
    """Changes a study while it lives: more budget, a wider space, another priority.

    Raises:
        NotFound: No such study.
        InvalidInput: The changed study would not hold; nothing is stored.
        Conflict: The name is taken, the study has no study file, or it was cancelled and is given
            more budget.
    """
    given = patch.model_dump(exclude_unset=True)
    for name in ("name", "priority", "tags", "description", "budget", "space"):
        if name in given and given[name] is None:
            raise InvalidInput(name, "cannot be null")
    if patch.name is not None:
        check_name("name", patch.name)
    with turn(ctx, study_id, actor=actor) as this:
        study = this.study
        if not study.spec:
            raise Conflict("a study that Optuna made is changed through Optuna")
        if "budget" in given and study.state == "cancelled":
            raise Conflict("a study that was cancelled does not go on", state=study.state)
        before = this.checked
        merged = {**study.spec, **given}
        if patch.space is not None:
            form = form_of(this.session, before.spec)
            ours = form is not None and form.kind != "script"
            known = unsaid(before.space) if ours else {}
            wider = widen(before.space, Space.parse(patch.space), known=known)
            merged["space"] = wider.to_dict()
            # From here on the range is the one that somebody wrote.
            merged.pop("range_test", None)
        wanted = StudySpec.parse(merged)
        after = check(wanted, form_of(this.session, wanted), partial(located, ctx))
        if after.max_step != before.max_step and study.next_number:
            raise InvalidInput("budget.epochs", "cannot change once there are trials")
        if "name" in given and given["name"] != study.name:
            if studies.by_name(this.session, given["name"]) is not None:
                raise Conflict(f"there is a study named {given['name']!r} already")
            study.name = given["name"]
        if patch.space is not None:
            skip_probe(this, "the space was changed")
            study.lr_range = None
        study.spec = after.spec.to_dict()
        study.priority = after.spec.priority
        study.max_concurrent = after.spec.max_concurrent
        study.tags = list(after.spec.tags)
        this.live.drop()
        more = study.state in REOPENED_STATES and "budget" in given and this.exhausted() is None
        this.note("study.updated", fields=sorted(given))
        if more:
            this.state("queued")
        studies.amend(this.session, study)
        this.revised = True
    return show_study(ctx, study_id)


def delete_study(ctx: Context, study_id: int, *, actor: str | None = None) -> None:
    """Deletes a study and its trials; the audit trail keeps that it was there.

    Raises:
        NotFound: No such study.
    """
    with turn(ctx, study_id, actor=actor) as this:
        this.note("study.deleted", name=this.study.name)
        saved = stored.of_study(this.session, study_id)
        studies.delete(this.session, study_id)
        this.deleted = True
    checkpoints.await_leftovers(ctx, study_id, checkpoints.delete(saved))
    checkpoints.clear(ctx, [study_id])


def pause_study(ctx: Context, study_id: int, *, actor: str | None = None) -> StudyView:
    """Starts nothing more; running trials are handed back, with checkpoints, at their next report.

    Raises:
        NotFound: No such study.
        Conflict: It is over, or stopping.
    """
    with turn(ctx, study_id, actor=actor) as this:
        _allow(this, "pause", ("queued", "running", "paused"))
        this.state("paused")
    return show_study(ctx, study_id)


def resume_study(ctx: Context, study_id: int, *, actor: str | None = None) -> StudyView:
    """Lets a paused study go on.

    Raises:
        NotFound: No such study.
        Conflict: It is over, or stopping.
    """
    with turn(ctx, study_id, actor=actor) as this:
        _allow(this, "resume", ("queued", "running", "paused"))
        if this.study.state == "paused":
            this.state("running" if this.study.started_at else "queued")
            this.rest()  # until somebody is given a trial
    return show_study(ctx, study_id)


def stop_study(ctx: Context, study_id: int, *, actor: str | None = None) -> StudyView:
    """Drains a study: nothing new starts, what runs is finished. Said again, it changes nothing.

    Raises:
        NotFound: No such study.
        Conflict: It has ended by itself.
    """
    with turn(ctx, study_id, actor=actor) as this:
        if (this.study.state, this.study.reason) != ("completed", STOPPED):
            _allow(this, "stop", (*OPEN_STATES, "paused", "stopping"))
            this.state("stopping")
            this.close([row for row in this.open_rows() if row.state == "waiting"], STOPPED)
            this.settle()
    return show_study(ctx, study_id)


def cancel_study(ctx: Context, study_id: int, *, actor: str | None = None) -> StudyView:
    """Ends a study now: leases are revoked, and whoever holds one is told to drop it.

    Said again, it changes nothing.

    Raises:
        NotFound: No such study.
        Conflict: It has ended otherwise.
    """
    with turn(ctx, study_id, actor=actor) as this:
        _allow(this, "cancel", (*OPEN_STATES, "paused", "stopping", "cancelled"))
        for row in this.open_rows():
            this.end(row, "pruned" if row.paused else "fail", "cancelled")
        this.state("cancelled")
    return show_study(ctx, study_id)


def _allow(this: Turn, what: str, states: tuple[str, ...]) -> None:
    if this.study.state not in states:
        raise Conflict(
            f"cannot {what} a study that is {this.study.state}"
            + ("; give it more budget to go on" if this.study.state in REOPENED_STATES else ""),
            state=this.study.state,
        )
