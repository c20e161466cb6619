"""What must happen though nobody asks: leases run out, studies end, files go; models are fitted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from tuner.errors import Locked, SchemaOutdated, SearchFailed, Unavailable, Uninstalled
from tuner.logs import Seldom
from tuner.queue import leases
from tuner.queue import probes as queue_probes
from tuner.service import checkpoints, probes
from tuner.service.context import Context
from tuner.service.receipts import KEPT
from tuner.service.searches import searching
from tuner.service.supply import prepare
from tuner.service.turns import failing, turn
from tuner.storage import events, offers, receipts, statistics, studies, tallies, workers
from tuner.storage.events import NewEvent
from tuner.storage.studies import OPEN_STATES

FORGET_EVERY = timedelta(minutes=5)
"""How often receipts are looked through."""

log = logging.getLogger(__name__)

_seldom = Seldom(seconds=300)
"""For what a study needs that is not here, which every round finds again."""

GONE_AFTER_LEASES = 2.0
"""A worker not heard of for this many lifetimes of a lease counts as gone."""

AHEAD = 4
"""Trials suggested ahead for each worker with room: enough to begin at once, and too few to matter
to a model that would have learned from the trials now running."""


def tick(ctx: Context) -> None:
    """One round of upkeep; idempotent, and safe with several servers on one database.

    A study that fails here is logged and does not keep the others waiting. One that is locked now
    has its turn in a later round: rounds that took long would look like a server that is away.

    Raises:
        Unavailable: The database cannot be reached; the next round catches up.
    """
    now = ctx.now()
    _bound_leases(ctx)
    if ctx.watch.whole(now, timedelta(seconds=ctx.settings.lease_seconds)):
        _reclaim(ctx)
        _miss_workers(ctx)
    _rest(ctx)
    _settle(ctx)
    checkpoints.sweep(ctx)
    _forget(ctx)
    ctx.watch.done(now)


def look_ahead(ctx: Context) -> None:
    """One round of thinking ahead: fits models and suggests what free workers will ask for.

    PostgreSQL's planner looks at tables that have grown.

    It may take as long as it takes; a study that fails here does not keep the others waiting.

    Raises:
        Unavailable: The database cannot be reached; the next round catches up.
    """
    _suggest(ctx)
    _refit(ctx)
    statistics.refresh(ctx.db)


def _bound_leases(ctx: Context) -> None:
    """Cuts leases that end later than any given now would: the clock was ahead, and was set back.

    A holder that died meanwhile would keep its trials until that time came.
    """
    settings = ctx.settings
    for seconds, asked in ((settings.lease_seconds, False), (ctx.longest_ask_seconds, True)):
        end = ctx.lease_end(ctx.now(), seconds)
        beyond = end + timedelta(seconds=settings.lease_seconds / 2)  # other servers' clocks differ
        with ctx.db.session() as session:
            if not leases.beyond(session, beyond, asked=asked):
                continue
        with ctx.db.write() as session:
            leases.cut(session, beyond, end, asked=asked)


def _reclaim(ctx: Context) -> None:
    """What a holder fell silent over waits for another, or fails after too many attempts."""
    with ctx.db.session() as session:
        late = leases.expired(session, ctx.now())
    for study_id, ids in late.items():
        with _guarded(study_id), turn(ctx, study_id, wait=False) as this:
            this.join()
            ended = leases.run_out(this.session, ids, this.now)
            for row in this.rows(ended).values():
                outcome = leases.give_up(row, max_attempts=ctx.settings.max_attempts, now=this.now)
                if outcome == "fail":
                    this.end(row, "fail", leases.LEASE_EXPIRED)
                else:
                    this.moved(row, cause=leases.LEASE_EXPIRED)
            # Of a row at hand that is as its holder's last report left it; heartbeats came since.
            this.rest(max(ended.values(), default=None))
            this.settle()
    with ctx.db.session() as session:
        silent = queue_probes.expired(session, ctx.now())
    for study_id in silent:
        with _guarded(study_id), turn(ctx, study_id, wait=False) as this:
            probes.reclaim(ctx, this)


def _miss_workers(ctx: Context) -> None:
    now = ctx.now()
    before = now - timedelta(seconds=GONE_AFTER_LEASES * ctx.settings.lease_seconds)
    with ctx.db.session() as session:
        if not workers.silent(session, before):
            return
    with ctx.db.write() as session:
        missed = workers.silent(session, before)
        for worker in missed:
            worker.state = "gone"
            ctx.heard.pop(worker.id, None)
        session.flush()
        events.add(session, [NewEvent("worker.gone", worker_id=w.id) for w in missed], None, now)


def _rest(ctx: Context) -> None:
    """Stops the clocks of studies whose workers were drained, or went on with another study.

    It stood still from their last word. Who takes a while to ask, or to be suggested something, has
    not left.
    """
    before = ctx.now() - timedelta(seconds=ctx.settings.lease_seconds)
    with ctx.db.session() as session:
        left = [
            study_id
            for study_id in studies.left_alone(session)
            if (events.last_heard(session, study_id) or before) <= before
        ]
    for study_id in left:
        with _guarded(study_id), turn(ctx, study_id, wait=False) as this:
            this.rest(this.study.active_since)


def _settle(ctx: Context) -> None:
    """Ends studies that drained, or whose wall time is over, though nobody reports."""
    with ctx.db.session() as session:
        candidates = studies.states(session, (*OPEN_STATES, "stopping"))
    for study_id, state, revision in candidates:
        live = ctx.searches.of(study_id)
        search = live.search
        timed = search is not None and search.budget.seconds is not None
        if state in OPEN_STATES and live.settled_at == revision and not timed:
            continue
        with _guarded(study_id), turn(ctx, study_id, wait=False) as this:
            if this.study.state in OPEN_STATES:
                if not this.study.spec:
                    this.settled = True  # Optuna made it, and says itself when it is over
                    continue
                this.join()
            this.settle()


def _forget(ctx: Context) -> None:
    """Removes what nobody will ask for again: receipts of old requests."""
    now = ctx.now()
    if ctx.forgot_at is None or abs(now - ctx.forgot_at) >= FORGET_EVERY:
        with ctx.db.write() as session:
            receipts.forget(session, now - KEPT)
        ctx.forgot_at = now


def _suggest(ctx: Context) -> None:
    """Suggests ahead of need, a few trials for each worker that has room now."""
    with ctx.db.session() as session:
        free: dict[str, int] = {}
        scripts = offers.scripts(session)
        for worker, held in workers.active(session):
            for task in worker.tasks:
                slots = 1 if task in scripts else worker.slots
                free[task] = free.get(task, 0) + min(max(slots - held, 0), AHEAD)
        free = {task: n for task, n in free.items() if n > 0}
        if not free:
            return
        waiting = [
            (queued, min(free[queued.task], queued.max_concurrent or free[queued.task]))
            for queued in tallies.queued(session.connection(), free, ctx.now())
        ]
    for queued, wanted in waiting:
        live = ctx.searches.of(queued.id)
        if queued.ready >= wanted or live.idle_at == queued.revision:
            continue
        with _guarded(queued.id):
            prepare(ctx, queued.id, wanted)


def _refit(ctx: Context) -> None:
    """Fits models anew, outside all locks."""
    for study_id, live in ctx.searches.entries():
        search = live.search
        with _guarded(study_id), failing(ctx), searching(study_id):
            if search is not None and search.stale:
                search.refit()


@contextmanager
def _guarded(study_id: int) -> Iterator[None]:
    """Logs what goes wrong with one study, so that upkeep of the others goes on."""
    try:
        yield
    except (Locked, SearchFailed) as error:  # the latter is logged, and will not come again
        log.debug("upkeep waits: %s", error, extra={"study": study_id})
    except Uninstalled as error:
        if _seldom.due(str(error)) is not None:
            log.warning("this server cannot look after a study: %s", error)
    except (Unavailable, SchemaOutdated):
        raise
    except Exception:
        log.exception("upkeep failed", extra={"study": study_id})
