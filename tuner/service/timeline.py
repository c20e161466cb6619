"""Who trained what, and when: leases as stretches of time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from tuner.service.context import Context
from tuner.service.views import View
from tuner.storage import pictures, studies, trials, workers
from tuner.storage.pictures import LEASED, MOVED, Happening

OWN_LOOP = "own loop"
"""Who holds trials that no worker has: a user's own loop that asked for them."""
MOST_OF_A_TRIAL = 5000
"""Leases that are looked through for one trial's."""


class Span(View):
    """One stretch in which somebody had a trial."""

    trial_id: int
    number: int
    worker_id: int | None
    start: float = Field(description="Seconds since 1970.")
    end: float | None = Field(description="Null: it still has it.")
    outcome: str = Field(description="running, or what it became: paused, waiting, complete, ...")


class Timeline(View):
    """The newest stretches of a study, in the order they began."""

    study_id: int
    workers: dict[int, str] = Field(description="Names of the workers.")
    spans: list[Span]
    cut: bool = Field(description="Whether there are older ones.")


class TrialEvent(View):
    """Something that happened to one trial."""

    at: datetime
    what: str = Field(description="created, leased, or the state that it came into.")
    worker_id: int | None
    worker: str | None = Field(description="Its name.")
    actor: str | None
    attempt: int = Field(description="Which attempt this was, from 1.")
    detail: str | None = Field(description="Why.")


def timeline(ctx: Context, study_id: int, *, most: int = 2000) -> Timeline:
    """Who had which trial, the newest ``most`` events of it.

    Raises:
        NotFound: No such study.
    """
    with ctx.db.session() as session:
        studies.get(session, study_id)
        found = pictures.happenings(session, study_id, most=most + 1)
        ids = {one.worker_id for one in found if one.worker_id is not None}
        names = workers.names(session, ids)
    cut = len(found) > most
    return Timeline(study_id=study_id, workers=names, spans=_spans(found[cut:]), cut=cut)


def _spans(found: list[Happening]) -> list[Span]:
    """Leases with the moves that ended them; a move whose lease came earlier is passed over."""
    spans: list[dict[str, Any]] = []
    held: dict[int, dict[str, Any]] = {}
    for one in found:
        at = one.at.timestamp()
        if one.kind == LEASED:
            for trial_id, number in zip(one.data["trials"], one.data["numbers"], strict=True):
                before = held.pop(trial_id, None)
                if before is not None:
                    before.update(end=at, outcome="lost")
                held[trial_id] = {
                    "trial_id": trial_id,
                    "number": number,
                    "worker_id": one.worker_id,
                    "start": at,
                    "end": None,
                    "outcome": "running",
                }
                spans.append(held[trial_id])
        elif one.trial_id in held:
            ended = held.pop(one.trial_id)
            ended.update(end=at, outcome="paused" if one.data.get("paused") else one.data["state"])
    return [Span(**span) for span in spans]


def trial_events(ctx: Context, trial_id: int) -> list[TrialEvent]:
    """What happened to one trial, in order: who had it, and what became of it.

    Raises:
        NotFound: No such trial.
    """
    with ctx.db.session() as session:
        row = trials.get(session, trial_id)
        found = pictures.happenings(
            session,
            row.study_id,
            most=MOST_OF_A_TRIAL,
            trial_id=trial_id,
            between=(row.created_at, row.finished_at or ctx.now()),
        )
        mine = [one for one in found if one.trial_id == trial_id or trial_id in one.data["trials"]]
        ids = {one.worker_id for one in mine if one.worker_id is not None}
        names = workers.names(session, ids)
    out: list[TrialEvent] = []
    for one in mine:
        holder = None if one.worker_id is None else names.get(one.worker_id)
        before = out[-1].attempt if out else 1
        out.append(
            TrialEvent(
                at=one.at,
                what=_what(one),
                worker_id=one.worker_id,
                worker=OWN_LOOP if one.kind == LEASED and one.worker_id is None else holder,
                actor=one.actor,
                attempt=one.data.get("attempt", before),
                detail=_detail(one),
            )
        )
    return out


def _what(one: Happening) -> str:
    if one.kind == MOVED:
        return "paused" if one.data.get("paused") else str(one.data["state"])
    return "leased" if one.kind == LEASED else "created"


def _detail(one: Happening) -> str | None:
    if one.data.get("returned"):
        return "handed back"
    told = one.data.get("cause") or one.data.get("reason") or one.data.get("origin")
    return None if told is None else str(told)
