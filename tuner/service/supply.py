"""Handing out: what waits is claimed, and what is missing is suggested, a study at a time.

Suggestions are written down before they are handed out. A slow sampler holds up its own study only:
nothing is locked in the database meanwhile, and should another process have changed the study, the
suggestions are thrown away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tuner.errors import InvalidInput, NotFound
from tuner.protocol import Probe
from tuner.queue import leases
from tuner.queue.leases import Lease
from tuner.queue.order import order
from tuner.service import probes
from tuner.service.context import Context
from tuner.service.searches import Live
from tuner.service.turn import STOPS_ALL, Turn
from tuner.service.turns import take
from tuner.storage import tallies
from tuner.storage.events import NewEvent
from tuner.storage.models import OPEN_PROBE_STATES, Worker
from tuner.storage.studies import OPEN_STATES, StudyRow
from tuner.storage.trials import TrialRow


@dataclass
class Handed:
    """What a worker is given: trials, each with its study; or a probe, which keeps it busy."""

    trials: list[tuple[StudyRow, TrialRow]] = field(default_factory=list)
    probe: Probe | None = None


def hand_out(
    ctx: Context,
    worker: Worker,
    k: int,
    prefer: int | None,
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
        fitting: The tasks that fit beside what it holds; None: all of its own. When another one's
            study has its turn and something to train, nothing more is handed out, so that what the
            worker holds drains.
        actor: On whose behalf.
    """
    handed = Handed()
    out = handed.trials
    if k < 1:
        return handed
    with ctx.db.peek() as connection:
        wanted = order(tallies.queued(connection, worker.tasks, ctx.now()), prefer)
    late: list[int] = []
    for queued in wanted:
        if queued.probe == "waiting" and not out:
            handed.probe = probes.offer(ctx, queued.id, worker.id, actor=actor)
        if len(out) >= k or handed.probe is not None:
            break
        idle = not queued.ready and ctx.searches.of(queued.id).idle_at == queued.revision
        if idle or queued.probe in OPEN_PROBE_STATES:
            continue
        if fitting is not None and queued.task not in fitting:
            if queued.ready or prepare(ctx, queued.id, 1):
                return handed
            continue
        got = from_study(ctx, queued.id, k - len(out), worker.id, wait=False, actor=actor)
        if got is None:
            late.append(queued.id)
        else:
            out += got
    for study_id in late:
        if out or handed.probe is not None:
            break
        out += from_study(ctx, study_id, k, worker.id, actor=actor) or []
    return handed


def from_study(
    ctx: Context,
    study_id: int,
    k: int,
    worker_id: int | None,
    *,
    wait: bool = True,
    seconds: float | None = None,
    origin: str = "sampled",
    actor: str | None = None,
) -> list[tuple[StudyRow, TrialRow]] | None:
    """Claims up to ``k`` trials of one study, suggesting what is missing.

    Args:
        ctx: The service.
        study_id: Whose trials.
        k: How many at most.
        worker_id: Who is to hold them; None: a user's own loop.
        wait: Whether to wait for a study that another thread is busy with.
        seconds: The life of the lease.
        origin: Of new trials.
        actor: On whose behalf.

    Returns:
        Study and trial for each; None when the study is busy and ``wait`` is off.

    Raises:
        NotFound: No such study.
        InvalidInput: Optuna made the study, and runs its trials.
    """

    def claim(taken: dict[int, Turn]) -> list[tuple[StudyRow, TrialRow]]:
        if study_id not in taken:
            raise NotFound("study", study_id)
        this = taken[study_id]
        if not this.study.spec:
            raise InvalidInput("study", "was made through Optuna: ask Optuna for its trials")
        lease = Lease.new(worker_id, _lease_end(ctx, this, seconds))
        return [(this.study, row) for row in _claim(this, k, lease, origin)]

    with _taken(ctx.searches.of(study_id), wait) as mine:
        if not mine:
            return None
        claimed = take(ctx, [study_id], claim, slow=True, actor=actor)
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


def _lease_end(ctx: Context, this: Turn, seconds: float | None) -> datetime:
    if seconds is None:
        return ctx.lease_end(this.now)
    return this.now + timedelta(seconds=seconds)


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
