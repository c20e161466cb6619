"""The five calls of a worker, and what is known about workers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from tuner.errors import NotFound, SearchFailed
from tuner.protocol import (
    Heartbeat,
    HeartbeatAnswer,
    LeaseAnswer,
    Leased,
    LeaseRequest,
    Registration,
    Report,
    ReportAnswer,
    SlotReport,
    SlotVerdict,
    WorkerHello,
)
from tuner.queue import leases
from tuner.queue import probes as queue_probes
from tuner.service import cursor as cursors
from tuner.service import probes
from tuner.service.context import Context
from tuner.service.logs import take_logs
from tuner.service.names import check_name
from tuner.service.offers import offer_tasks
from tuner.service.receipts import Receipt
from tuner.service.reporting import take_in
from tuner.service.supply import Handed, hand_out
from tuner.service.turn import Turn
from tuner.service.turns import studies_of, take, turn
from tuner.service.views import Page, WorkerView, checkpoint_of, worker_view
from tuner.spec import Checked
from tuner.storage import events, workers
from tuner.storage.events import NewEvent
from tuner.storage.models import Worker
from tuner.storage.trials import TrialRow
from tuner.storage.workers import Present

LISTED = timedelta(days=7)
"""For how long a worker that has gone is listed."""


def register_worker(ctx: Context, hello: WorkerHello, *, actor: str | None = None) -> Registration:
    """A worker introduces itself; the same hello said twice is of one worker.

    Raises:
        InvalidInput: Its name cannot be shown.
    """
    check_name("name", hello.name)
    now = ctx.now()
    offer_tasks(ctx, hello.forms)
    with ctx.db.write() as session:
        receipt = Receipt.of(session, now, "register", hello.name, hello.key)
        if receipt.fresh:
            receipt.fill({"worker": _add(session, hello, actor, now)})
    return Registration(
        worker_id=receipt.made["worker"],
        lease_seconds=ctx.settings.lease_seconds,
        heartbeat_seconds=ctx.settings.heartbeat_seconds,
    )


def _add(session: Session, hello: WorkerHello, actor: str | None, now: datetime) -> int:
    worker_id = workers.add(
        session,
        Worker(
            name=hello.name,
            state="active",
            device=hello.device,
            tasks=list(hello.tasks),
            slots=hello.slots,
            status={},
            registered_at=now,
            heartbeat_at=now,
        ),
    )
    told = {"name": hello.name, "slots": hello.slots, "tasks": list(hello.tasks)}
    events.add(session, [NewEvent("worker.registered", worker_id=worker_id, data=told)], actor, now)
    return worker_id


def lease(
    ctx: Context, worker_id: int, request: LeaseRequest, *, actor: str | None = None
) -> LeaseAnswer:
    """A worker with free slots asks for trials.

    Raises:
        NotFound: No such worker.
    """
    worker = _heard(ctx, worker_id)
    handed = hand_out(
        ctx, worker, request.k, request.prefer, request.key, request.tasks, actor=actor
    )
    return LeaseAnswer(
        leased=_leased(ctx, handed), probe=handed.probe, drain=worker.state == "draining"
    )


def report(
    ctx: Context, worker_id: int, report: Report, *, actor: str | None = None
) -> ReportAnswer:
    """A worker delivers a round's news of all its slots, and takes new trials for those now free.

    Safe to repeat: a point is stored once, what was decided stays decided, and the trials that it
    was given are given again.

    Raises:
        NotFound: No such worker.
        InvalidInput: A report lacks a metric or is of a step beyond the training; nothing of the
            request's slots is stored.
    """
    worker = _heard(ctx, worker_id, report.status)
    if report.printed:
        take_logs(ctx, report.printed)
    if report.probe is not None:
        with suppress(SearchFailed):  # that study is over now
            probes.take_in(ctx, report.probe, actor=actor)
    verdicts = _delivered(ctx, report.slots, actor) if report.slots else {}
    freed = sum(1 for verdict in verdicts.values() if verdict.action != "continue")
    wanted = report.refill + freed
    handed = hand_out(ctx, worker, wanted, report.prefer, report.key, report.tasks, actor=actor)
    return ReportAnswer(
        verdicts=[
            verdicts.get(slot.trial_id) or SlotVerdict(trial_id=slot.trial_id, action="lost")
            for slot in report.slots
        ],
        leased=_leased(ctx, handed),
        probe=handed.probe,
        drain=worker.state == "draining",
    )


def _delivered(
    ctx: Context, reported: Sequence[SlotReport], actor: str | None
) -> dict[int, SlotVerdict]:
    """The verdicts on slots of any studies, without those on trials that are gone."""
    slots = {slot.trial_id: slot for slot in reported}
    belongs = studies_of(ctx, slots)

    def deliver(taken: dict[int, Turn]) -> dict[int, SlotVerdict]:
        verdicts: dict[int, SlotVerdict] = {}
        for study_id, this in taken.items():
            mine = [slots[i] for i, of in belongs.items() if of == study_id]
            verdicts.update(take_in(ctx, this, mine, list(slots)))
        return verdicts

    while True:
        try:
            return take(ctx, set(belongs.values()), deliver, actor=actor)
        except SearchFailed:
            continue  # that study is over now; what the slots of others say still counts


def heartbeat(ctx: Context, worker_id: int, beat: Heartbeat) -> HeartbeatAnswer:
    """A sign of life; renews the leases it names and says which of them are lost.

    Raises:
        NotFound: No such worker.
    """
    now = ctx.now()
    worker = _touched(ctx, worker_id, now, beat.status)
    lost: set[int] = set()
    lost_probes: set[int] = set()
    if beat.held:
        with ctx.db.brief() as direct:
            lost = leases.renew(direct, beat.held, ctx.lease_end(now))
    if beat.probes:
        with ctx.db.write() as session:
            lost_probes = queue_probes.renew(session, beat.probes, ctx.lease_end(now))
    return HeartbeatAnswer(
        drop=sorted(lost), drop_probes=sorted(lost_probes), drain=worker.state == "draining"
    )


def leave(ctx: Context, worker_id: int, *, actor: str | None = None) -> None:
    """A worker says goodbye; what it still held waits for others.

    Raises:
        NotFound: No such worker.
    """
    with ctx.db.session() as session:
        workers.get(session, worker_id)
        held = leases.held_by(session, worker_id)
        probed = queue_probes.held_by(session, worker_id)
    for study_id in probed:
        with suppress(NotFound), turn(ctx, study_id, actor=actor) as this:
            probes.give_back(this, worker_id)
    for study_id, ids in held.items():
        with suppress(NotFound), turn(ctx, study_id, actor=actor) as this:
            for row in this.rows(ids).values():
                if row.worker_id == worker_id and row.lease_token is not None:
                    this.hand_back(row)
            this.rest()
    ctx.heard.pop(worker_id, None)
    now = ctx.now()
    with ctx.db.write() as session:
        worker = workers.get(session, worker_id)
        if worker.state != "gone":
            worker.state = "gone"
            session.flush()
            events.add(session, [NewEvent("worker.left", worker_id=worker_id)], actor, now)


def list_workers(ctx: Context) -> list[WorkerView]:
    """All workers that are there or were in the last week, those heard of last first."""
    with ctx.db.session() as session:
        return _views(session, workers.everyone(session, ctx.now() - LISTED))


def page_of_workers(
    ctx: Context, *, cursor: str | None = None, limit: int = 50
) -> Page[WorkerView]:
    """The same workers a page at a time, those that registered last first: that order stays.

    Raises:
        InvalidInput: The cursor is none of this list.
    """
    first = cursors.read(cursor, [(int,)])
    with ctx.db.session() as session:
        found = workers.before(session, ctx.now() - LISTED, first[0] if first else None, limit + 1)
        items = _views(session, found[:limit])
    more = len(found) > limit
    return Page(items=items, next_cursor=cursors.write([items[-1].id]) if more else None)


def _views(session: Session, found: Sequence[Worker]) -> list[WorkerView]:
    # Those that are gone, of which a week may have seen very many, hold nothing.
    held = workers.held(session, [one.id for one in found if one.state != "gone"])
    return [worker_view(worker, held.get(worker.id, 0)) for worker in found]


def worker_names(ctx: Context, worker_ids: Collection[int]) -> dict[int, str]:
    """What these workers are called, however long ago they trained."""
    with ctx.db.session() as session:
        return workers.names(session, worker_ids)


def drain_worker(ctx: Context, worker_id: int, *, actor: str | None = None) -> WorkerView:
    """Gives a worker no more trials; it leaves when those it has are done.

    Raises:
        NotFound: No such worker.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        worker = workers.get(session, worker_id, lock=True)
        ctx.heard.pop(worker_id, None)
        if worker.state == "active":
            worker.state = "draining"
            session.flush()
            events.add(session, [NewEvent(workers.DRAINING, worker_id=worker_id)], actor, now)
        held = workers.held(session, [worker_id])
    return worker_view(worker, held.get(worker_id, 0))


def _heard(ctx: Context, worker_id: int, status: dict[str, Any] | None = None) -> Present:
    """The worker, noted as alive unless that was done within a heartbeat."""
    now = ctx.now()
    known = ctx.heard.get(worker_id)
    lately = timedelta(seconds=ctx.settings.heartbeat_seconds)
    if known is not None and abs(now - known[1]) < lately:
        return known[0]
    return _touched(ctx, worker_id, now, status)


def _touched(ctx: Context, worker_id: int, now: datetime, status: dict[str, Any] | None) -> Present:
    """The worker, noted as alive."""
    with ctx.db.brief() as direct:
        worker = workers.touch(direct, worker_id, now, status)
    ctx.heard[worker_id] = (worker, now)
    return worker


def _leased(ctx: Context, handed: Handed) -> list[Leased]:
    ctx.searches.remember({row.id: study.id for study, row in handed.trials})
    return [leased_message(ctx.searches.plans.of(study), row) for study, row in handed.trials]


def leased_message(checked: Checked, row: TrialRow) -> Leased:
    """A trial as its holder gets it."""
    spec = checked.spec
    config = checked.space.fill(row.params)
    return Leased(
        trial_id=row.id,
        study_id=row.study_id,
        number=row.number,
        attempt=row.attempt,
        token=row.lease_token or "",
        task="" if spec.task is None else spec.task.name,
        task_params={} if spec.task is None else spec.task.params,
        config=config,
        seed=row.seed,
        data_seed=spec.seed,
        start=0 if row.checkpoint is None else int(row.checkpoint["step"]),
        until=row.until,
        max_step=checked.max_step_of(config),
        epochs_per_step=spec.eval_every,
        checkpoint=checkpoint_of(row),
        metrics=checked.metrics,
        device_seconds=row.device_seconds,
    )
