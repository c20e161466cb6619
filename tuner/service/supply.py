"""Handing out: what waits is claimed, and what is missing is suggested, a study at a time.

Suggestions are written down before they are handed out. A slow sampler holds up its own study only:
nothing is locked in the database meanwhile, and should another process have changed the study, the
suggestions are thrown away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from tuner.errors import InvalidInput, Locked, NotFound, SearchFailed, Uninstalled
from tuner.protocol import Probe
from tuner.queue import leases
from tuner.queue.leases import Lease
from tuner.queue.order import order
from tuner.service import probes
from tuner.service.claims import AnsweredBefore, Claim
from tuner.service.context import Context
from tuner.service.receipts import name
from tuner.service.searches import Live
from tuner.service.turn import STOPS_ALL, Turn
from tuner.service.turns import take
from tuner.storage import studies, tallies
from tuner.storage.events import NewEvent
from tuner.storage.models import OPEN_PROBE_STATES
from tuner.storage.studies import OPEN_STATES, StudyRow
from tuner.storage.tallies import Queued
from tuner.storage.trials import TrialRow
from tuner.storage.workers import Present

_OTHERS_GO_ON = (Locked, SearchFailed, Uninstalled, NotFound)
"""What keeps one study from giving trials now, and says nothing about the others."""


@dataclass
class Handed:
    """What a worker is given: trials, each with its study; or a probe, which keeps it busy."""

    trials: list[tuple[StudyRow, TrialRow]] = field(default_factory=list)
    probe: Probe | None = None


def hand_out(
    ctx: Context,
    worker: Present,
    k: int,
    prefer: int | None,
    key: str,
    fitting: Collection[str] | None = None,
    *,
    actor: str | None = None,
) -> Handed:
    """Up to ``k`` trials for a worker, from the studies in the order of service.

    One that drains is given nothing, but what an answer that was lost gave it before it did.

    A study whose range test waits gives that instead, and nothing while it runs. One that somebody
    else is busy with comes last, and is waited for only when there is nothing else to hand out.

    Args:
        ctx: The service.
        worker: Who asks.
        k: How many at most.
        prefer: The study that it trains already.
        key: The worker's name for this request: said again, it is given the same.
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
        with ctx.db.peek() as connection:
            claim.refuse_repeated(connection)
            if worker.state == "draining":
                return handed
            wanted = order(tallies.queued(connection, worker.tasks, ctx.now()), prefer)
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
    """Claims from one study after another; one that somebody has locked gives nothing now.

    One whose search fails gives nothing ever, one of which something is not installed here gives
    nothing through this server, one that is gone nothing more; none keeps another study waiting.
    """
    out = handed.trials
    late: list[int] = []
    for queued in wanted:
        if len(out) >= k:
            break
        with suppress(*_OTHERS_GO_ON):
            if queued.probe == "waiting" and not out:
                handed.probe = probes.offer(ctx, queued.id, claim)
            if handed.probe is not None:
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
        with suppress(*_OTHERS_GO_ON):
            out += from_study(ctx, study_id, k, claim) or []


def from_study(
    ctx: Context, study_id: int, k: int, claim: Claim, *, wait: bool = True
) -> list[tuple[StudyRow, TrialRow]] | None:
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
        NotFound: No such study.
        InvalidInput: Optuna made the study, and runs its trials.
        AnsweredBefore: It was the same request as an earlier one.
        Locked: Somebody has the study's row locked.
        SearchFailed: Its search raised.
    """

    def claimed_in(taken: dict[int, Turn]) -> list[tuple[StudyRow, TrialRow]]:
        if study_id not in taken:
            raise NotFound("study", study_id)
        this = taken[study_id]
        if not this.study.spec:
            raise InvalidInput("study", "was made through Optuna: ask Optuna for its trials")
        rows = _claim(this, k, claim.lease(ctx, this), claim.origin)
        if rows:
            claim.keep(this)
        return [(this.study, row) for row in rows]

    with _taken(ctx.searches.of(study_id), wait) as mine:
        if not mine:
            return None
        claimed = claim.take(ctx, study_id, claimed_in, slow=True)
        # Copies, as the next turn may change the rows before these are handed out.
        return [(study, replace(row)) for study, row in claimed]


@contextmanager
def _taken(live: Live, wait: bool) -> Iterator[bool]:
    mine = live.lock.acquire(blocking=wait)
    try:
        yield mine
    finally:
        if mine:
            live.lock.release()


def _allowed(study: StudyRow, live: Live, k: int) -> int:
    """How many of ``k`` trials the study may have running beside those it has."""
    if study.max_concurrent is None:
        return k
    leased = sum(row.lease_token is not None for row in live.rows.values())
    return max(min(k, study.max_concurrent - leased), 0)


def _missing(study: StudyRow, live: Live, k: int) -> int:
    """How many trials must be suggested so that ``k`` can be claimed."""
    return max(_allowed(study, live, k) - sum(row.ready for row in live.rows.values()), 0)


def _claim(this: Turn, k: int, lease: Lease, origin: str) -> list[TrialRow]:
    study = this.study
    if study.state not in OPEN_STATES or study.probing or this.exhausted() in STOPS_ALL:
        return []
    allowed = _allowed(study, this.live, k)
    suggestions = this.suggest(_missing(study, this.live, k))
    rows = leases.claim(this.live.rows.values(), allowed, lease, this.now)
    for row in rows:
        this.change(row)
    # Suggested was what those that waited left missing, so all of it is claimed as well.
    rows += this.write_down(suggestions, origin, lease)
    rows.sort(key=lambda row: row.number)
    if rows:
        this.state("running")
        this.go_on()
        this.events.append(NewEvent("trial.leased", study.id, worker_id=lease.worker_id, of=rows))
    elif allowed > 0:
        this.settle()
        this.live.idle_at = study.revision + this.revised
    return rows


def prepare(ctx: Context, study_id: int, ready: int) -> int:
    """Suggests ahead, so that ``ready`` trials wait for the workers that are free now.

    Returns:
        How many trials were written down.
    """

    def suggest(taken: dict[int, Turn]) -> int:
        this = taken.get(study_id)
        if this is None or this.study.state not in OPEN_STATES or this.study.probing:
            return 0
        this.join()
        return len(this.write_down(this.suggest(_missing(this.study, this.live, ready))))

    with _taken(ctx.searches.of(study_id), wait=False) as mine:
        return take(ctx, [study_id], suggest, slow=True) if mine else 0
