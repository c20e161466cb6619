"""Handing out: what waits is claimed, and what is missing is suggested, a study at a time.

Suggestions are written down before they are handed out. On SQLite, which has one writer at a time,
they are computed before the transaction that writes them, so that a slow sampler holds up its own
study only; should another process have changed the study meanwhile, they are thrown away. On
PostgreSQL the study's row is locked meanwhile, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from tuner.protocol import Probe
from tuner.queue import leases
from tuner.queue.leases import Lease
from tuner.queue.order import order
from tuner.search import Suggestion
from tuner.service import probes
from tuner.service.claims import AnsweredBefore, Claim
from tuner.service.context import Context
from tuner.service.receipts import name
from tuner.service.searches import Live
from tuner.service.turn import STOPS_ALL, Turn, elapsed, turn
from tuner.storage import studies
from tuner.storage.events import NewEvent
from tuner.storage.models import OPEN_PROBE_STATES, Study, Worker
from tuner.storage.studies import OPEN_STATES, Queued
from tuner.storage.trials import TrialRow

HURRIED_TRIES = 2
"""Tries to suggest outside the transaction before the study is locked for it."""


@dataclass
class Handed:
    """What a worker is given: trials, each with its study; or a probe, which keeps it busy."""

    trials: list[tuple[Study, TrialRow]] = field(default_factory=list)
    probe: Probe | None = None


def hand_out(
    ctx: Context,
    worker: Worker,
    k: int,
    prefer: int | None,
    key: str,
    fitting: Collection[str] | None = None,
    *,
    actor: str | None = None,
) -> Handed:
    """Up to ``k`` trials for a worker, from the studies in the order of service.

    A study whose range test waits gives that instead, and nothing while it runs. One that somebody
    else is busy with comes last, and is waited for only when there is nothing else to hand out.

    Args:
        ctx: The service.
        worker: Who asks.
        k: How many at most.
        prefer: The study that it trains already.
        key: The worker's name for this request.
        fitting: The tasks that fit beside what it holds; None: all of its own. When another one's
            study has its turn and something to train, nothing more is handed out, so that what the
            worker holds drains.
        actor: On whose behalf.
    """
    handed = Handed()
    if k < 1:
        return handed
    claim = Claim(worker.id, name("lease", worker.id, key), actor=actor)
    try:
        with ctx.db.session() as session:
            claim.refuse_repeated(session)
            wanted = order(studies.queued(session, worker.tasks, ctx.now()), prefer)
        _from_studies(ctx, handed, wanted, k, claim, fitting)
    except AnsweredBefore as before:
        return still_held(ctx, before.token, worker_id=worker.id)
    return handed


def still_held(
    ctx: Context, token: str, *, worker_id: int | None = None, study_id: int | None = None
) -> Handed:
    """What a request was given before, as far as it is still held under the request's token."""
    with ctx.db.session() as session:
        rows = leases.under(session, token, worker_id=worker_id, study_id=study_id)
        found = [(studies.get(session, row.study_id), row) for row in rows]
    return Handed(found, None if worker_id is None else probes.still_held(ctx, token, worker_id))


def _from_studies(
    ctx: Context,
    handed: Handed,
    wanted: Sequence[Queued],
    k: int,
    claim: Claim,
    fitting: Collection[str] | None,
) -> None:
    """Claims from one study after another."""
    out = handed.trials
    late: list[int] = []
    for queued in wanted:
        if queued.probe == "waiting" and not out:
            handed.probe = probes.offer(ctx, queued.id, claim)
        if len(out) >= k or handed.probe is not None:
            break
        idle = not queued.ready and ctx.searches.of(queued.id).idle_at == queued.revision
        if idle or queued.probe in OPEN_PROBE_STATES:
            continue
        if fitting is not None and queued.task not in fitting:
            if queued.ready or prepare(ctx, queued.id, 1):
                return
            continue
        got = from_study(ctx, queued.id, k - len(out), claim, wait=False)
        if got is None:
            late.append(queued.id)
        else:
            out += got
    for study_id in late:
        if out or handed.probe is not None:
            break
        out += from_study(ctx, study_id, k, claim) or []


def from_study(
    ctx: Context, study_id: int, k: int, claim: Claim, *, wait: bool = True
) -> list[tuple[Study, TrialRow]] | None:
    """Claims up to ``k`` trials of one study, suggesting what is missing.

    Args:
        ctx: The service.
        study_id: Whose trials.
        k: How many at most.
        claim: The request.
        wait: Whether to wait for a study that another thread is busy with.

    Returns:
        Study and trial for each; None when the study is busy and ``wait`` is off.

    Raises:
        AnsweredBefore: It was the same request as an earlier one.
    """
    live = ctx.searches.of(study_id)
    with _taken(live, wait) as mine:
        if not mine:
            return None
        for hurried in range(HURRIED_TRIES + 1):
            ahead = None
            if ctx.db.embedded and hurried < HURRIED_TRIES:
                ahead = _suggest_ahead(ctx, live, study_id, k)
            with turn(ctx, study_id, actor=claim.actor) as this:
                if ahead is not None and ahead.revision != this.study.revision:
                    live.drop()
                    continue
                if ahead is not None:
                    this.told = True  # it was asked a moment ago, at this very revision
                rows = _claim(this, k, claim.lease(ctx, this), ahead, claim.origin)
                if rows:
                    claim.keep(this)
                return [(this.study, row) for row in rows]
    raise AssertionError("the last try always returns")


@dataclass(frozen=True)
class Ahead:
    """What was suggested before the transaction, and the revision that it goes by."""

    revision: int
    suggestions: list[Suggestion]


@contextmanager
def _taken(live: Live, wait: bool) -> Iterator[bool]:
    mine = live.lock.acquire(blocking=wait)
    try:
        yield mine
    finally:
        if mine:
            live.lock.release()


def _suggest_ahead(ctx: Context, live: Live, study_id: int, k: int) -> Ahead | None:
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        if study.state not in OPEN_STATES or study.probing:
            return None
        try:
            search = live.synced(session, study)
            missing = _missing(session, study, k)
            found = search.suggest(missing, elapsed_seconds=elapsed(study, ctx.now()))
        except BaseException:
            live.drop()
            raise
        return Ahead(study.revision, found)


def _allowed(session: Session, study: Study, k: int) -> int:
    """How many of ``k`` trials the study may have running beside those it has."""
    if study.max_concurrent is None:
        return k
    return max(min(k, study.max_concurrent - studies.leased(session, study.id)), 0)


def _missing(session: Session, study: Study, k: int) -> int:
    """How many trials must be suggested so that ``k`` can be claimed."""
    return max(_allowed(session, study, k) - studies.ready(session, study.id), 0)


def _claim(this: Turn, k: int, lease: Lease, ahead: Ahead | None, origin: str) -> list[TrialRow]:
    study = this.study
    if study.state not in OPEN_STATES or study.probing or this.exhausted() in STOPS_ALL:
        if ahead is not None and ahead.suggestions:
            this.live.drop()  # it believes that these will run
        return []
    allowed = _allowed(this.session, study, k)
    if ahead is not None:
        suggestions = ahead.suggestions
    else:
        missing = _missing(this.session, study, k)
        suggestions = this.search.suggest(missing, elapsed_seconds=this.elapsed)
    this.write_down(suggestions, origin)
    this.flush()
    rows = leases.claim(
        this.session, study.id, allowed, lease, revision=this.revision, now=this.now
    )
    if rows:
        this.revised = True
        this.state("running")
        told = {"trials": [row.id for row in rows], "numbers": [row.number for row in rows]}
        this.events.append(NewEvent("trial.leased", study.id, worker_id=lease.worker_id, data=told))
    elif allowed > 0:
        this.settle()
        this.live.idle_at = study.revision + this.revised
    return rows


def prepare(ctx: Context, study_id: int, ready: int) -> int:
    """Suggests ahead, so that ``ready`` trials wait for the workers that are free now.

    Returns:
        How many trials were written down.
    """
    live = ctx.searches.of(study_id)
    with _taken(live, wait=False) as mine:
        if not mine:
            return 0
        ahead = _suggest_ahead(ctx, live, study_id, ready) if ctx.db.embedded else None
        if ahead is not None and not ahead.suggestions:
            return 0
        with turn(ctx, study_id) as this:
            stale = ahead is not None and ahead.revision != this.study.revision
            if stale or this.study.state not in OPEN_STATES or this.study.probing:
                live.drop()
                return 0
            if ctx.db.embedded and ahead is None:
                return 0
            if ahead is None:
                missing = _missing(this.session, this.study, ready)
                suggestions = this.search.suggest(missing, elapsed_seconds=this.elapsed)
            else:
                suggestions = ahead.suggestions
                this.told = True
            return len(this.write_down(suggestions))
