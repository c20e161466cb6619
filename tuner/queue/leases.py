"""Leases: a trial has one holder, under a token, for a time; every later write carries the token.

Who changes trials has them in hand and holds their study's lock (``tuner.storage.studies.lock``).
Only :func:`renew` needs no lock: a lease in the database may last longer than the row in hand says,
never shorter.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, Table, bindparam, select, update
from sqlalchemy.orm import Session

from tuner.storage.engine import dump_json
from tuner.storage.models import Trial
from tuner.storage.prepared import Executing, Prepared, given_rows, looked_up
from tuner.storage.trials import COLUMNS, TrialRow, select_rows

_table = cast("Table", Trial.__table__)

LEASE_EXPIRED = "lease_expired"
EXPIRED_AT_ONCE = 10_000
"""Of so many trials at most does one look learn; what is over waits for the next."""


def _renew_all() -> Prepared:
    """Those that are held as named; returns their ids."""
    named = given_rows("held", [_table.c.id, _table.c.lease_token])
    as_named = looked_up(_table.c.id, named.c.id) & (_table.c.lease_token == named.c.lease_token)
    mine = select(_table.c.id).select_from(_table.join(named, as_named))
    # Rows that a report has locked are passed over: the report renews them itself.
    free = mine.order_by(_table.c.id).with_for_update(skip_locked=True, of=_table)
    renewed = (
        update(_table)
        .where(_table.c.id.in_(free.scalar_subquery()))
        .values(lease_expires_at=bindparam("expires_at"))
        .returning(_table.c.id)
        .cte("renewed")
    )
    return Prepared(mine.add_cte(renewed))


_RENEW_ALL = _renew_all()
_RENEW = Prepared(
    update(_table)
    .where(_table.c.id == bindparam("trial"), _table.c.lease_token == bindparam("token"))
    .values(lease_expires_at=bindparam("expires_at"))
    .returning(_table.c.id)
)


@dataclass(frozen=True)
class Lease:
    """Who is given trials, and until when without a sign of life.

    One token serves all trials of one claim: it is checked together with the trial's id.
    """

    worker_id: int | None
    token: str
    expires_at: datetime


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)


def claim(rows: Iterable[TrialRow], k: int, lease: Lease, now: datetime) -> list[TrialRow]:
    """Gives up to ``k`` of the trials that wait to the lease's holder.

    What users enqueued comes first, then what others began, then the lowest numbers.

    Args:
        rows: A study's trials.
        k: How many at most.
        lease: Whose.
        now: The present moment.

    Returns:
        Those it has now.
    """
    waiting = sorted(
        (row for row in rows if row.ready),
        key=lambda row: (row.origin != "enqueued", -row.step, row.number),
    )
    for row in waiting[:k]:
        row.hold(lease.worker_id, lease.token, lease.expires_at, now)
    return waiting[:k]


def renew(connection: Executing, held: Mapping[int, str], expires_at: datetime) -> set[int]:
    """Prolongs the leases that are named with their present token; needs no study's lock.

    Args:
        connection: A transaction; on PostgreSQL it may be one that ends with each statement.
        held: Tokens by trial.
        expires_at: The leases' new end.

    Returns:
        The trials whose lease is lost.
    """
    if not held:
        return set()
    good: set[int] = set()
    values: dict[str, Any]
    if connection.dialect.name == "postgresql":
        named = [{"id": i, "lease_token": token} for i, token in held.items()]
        values = {"held": dump_json(named), "expires_at": expires_at}
        good.update(trial_id for (trial_id,) in _RENEW_ALL.rows(connection, values))
    else:
        for trial_id, token in held.items():
            values = {"trial": trial_id, "token": token, "expires_at": expires_at}
            good.update(found for (found,) in _RENEW.rows(connection, values))
    return set(held) - good


def expired(session: Session, now: datetime) -> dict[int, list[int]]:
    """Trials whose lease has run out, by study, the longest ago first; see :func:`run_out`."""
    rows = session.execute(
        select(Trial.study_id, Trial.id)
        .where(Trial.lease_expires_at < now)
        .order_by(Trial.lease_expires_at)
        .limit(EXPIRED_AT_ONCE)
    )
    out: dict[int, list[int]] = {}
    for study_id, trial_id in rows:
        out.setdefault(study_id, []).append(trial_id)
    return out


def _ends_after(moment: datetime, *, asked: bool) -> tuple[ColumnElement[bool], ...]:
    """Leases of workers, or of users' own loops, that end after a moment."""
    return (
        Trial.lease_expires_at > moment,
        Trial.worker_id.is_(None) if asked else Trial.worker_id.is_not(None),
    )


def beyond(session: Session, moment: datetime, *, asked: bool) -> bool:
    """Whether a lease ends after a moment; needs no study's lock."""
    query = select(Trial.id).where(*_ends_after(moment, asked=asked)).limit(1)
    return session.scalar(query) is not None


def cut(session: Session, moment: datetime, end: datetime, *, asked: bool) -> None:
    """Lets the leases that end after a moment end at another one; needs no study's lock."""
    late = (
        select(Trial.id).where(*_ends_after(moment, asked=asked)).with_for_update(skip_locked=True)
    )
    session.connection().execute(
        update(_table).where(_table.c.id.in_(late.scalar_subquery())).values(lease_expires_at=end)
    )


def run_out(session: Session, trial_ids: Collection[int], now: datetime) -> dict[int, datetime]:
    """When those of these leases ran out that did, locked so that nobody renews them any more."""
    query = select(Trial.id, Trial.lease_expires_at).where(
        Trial.id.in_(trial_ids), Trial.lease_expires_at < now
    )
    rows = session.execute(query.order_by(Trial.id).with_for_update())
    return {trial_id: ended for trial_id, ended in rows if ended is not None}


def held_by(session: Session, worker_id: int) -> dict[int, list[int]]:
    """The trials that a worker holds, by study; needs no study's lock."""
    rows = session.execute(
        select(Trial.study_id, Trial.id).where(
            Trial.worker_id == worker_id, Trial.lease_token.is_not(None)
        )
    )
    out: dict[int, list[int]] = {}
    for study_id, trial_id in rows:
        out.setdefault(study_id, []).append(trial_id)
    return out


def under(
    session: Session, token: str, *, worker_id: int | None, study_id: int | None
) -> list[TrialRow]:
    """The trials that are held under a token now, of one worker or one study; needs no lock."""
    mine = Trial.worker_id == worker_id if study_id is None else Trial.study_id == study_id
    query = select(*COLUMNS).where(mine, Trial.state == "running", Trial.lease_token == token)
    return select_rows(session, query.order_by(Trial.id))


def owns(row: TrialRow | None, token: str) -> bool:
    """Whether ``token`` is the trial's present lease."""
    return row is not None and _same(row.lease_token, token)


def ended(row: TrialRow | None, token: str) -> bool:
    """Whether the holder of the lease ``token`` ended the trial itself, and may not know it yet."""
    return row is not None and row.finished and _same(row.last_token, token)


def _same(known: str | None, token: str) -> bool:
    return known is not None and secrets.compare_digest(known.encode(), token.encode())


Outcome = Literal["waiting", "fail"]


def give_up(row: TrialRow, *, max_attempts: int, now: datetime) -> Outcome:
    """Ends the lease of a holder that fell silent: another attempt, or the end.

    It is the end after ``max_attempts`` losses without the trial's coming further than it was: so
    it is with one that kills its workers, not with one whose workers are taken away.

    The next attempt starts from the last checkpoint, and from scratch where there is none.
    """
    row.lost = _lost(row)
    if row.lost["times"] >= max_attempts:
        row.end("fail", LEASE_EXPIRED, now)
        return "fail"
    next_attempt(row)
    return "waiting"


def _lost(row: TrialRow) -> dict[str, int]:
    """The losses of a trial with the one that is happening.

    How far it ever was is compared, not where its last attempt began: that may have been a
    checkpoint from which each attempt goes the same few steps, and dies.
    """
    before = row.lost or {"times": 0, "step": 0, "samples": 0}
    saved = row.checkpoint or {}
    reached = {"step": row.step, "samples": saved.get("samples") or 0}
    further = any(reached[how] > before[how] for how in reached)
    furthest = {how: max(reached[how], before[how]) for how in reached}
    return {"times": 1 if further else before["times"] + 1, **furthest}


def next_attempt(row: TrialRow) -> None:
    """Puts a trial back into the queue for another attempt."""
    row.wait()
    row.attempt += 1
    row.step = _saved(row)


def hand_back(row: TrialRow) -> None:
    """Puts a trial back into the queue that its holder gives up of its own accord.

    It is the same attempt, unless steps that were reported are trained again: their points would
    stay those of the first time.
    """
    if _saved(row) < row.step:
        next_attempt(row)
    else:
        row.wait()


def _saved(row: TrialRow) -> int:
    """The step from which a trial goes on."""
    return int(row.checkpoint["step"]) if row.checkpoint else 0
