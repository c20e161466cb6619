"""Leases: a trial has one holder, under a token, for a time; every later write carries the token.

Callers hold the lock of the study's row (``tuner.storage.studies.lock``) except where a function
says that it needs none.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from sqlalchemy import ColumnElement, Table, case, func, select, update
from sqlalchemy.orm import Session

from tuner.storage.models import Trial
from tuner.storage.trials import COLUMNS, TrialRow, select_rows

_table = cast("Table", Trial.__table__)

LEASE_EXPIRED = "lease_expired"


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


def claim(
    session: Session, study_id: int, k: int, lease: Lease, *, revision: int, now: datetime
) -> list[TrialRow]:
    """Gives up to ``k`` waiting trials to the lease's holder, in one statement.

    What users enqueued comes first, then what others began, then the lowest numbers. Two claims
    never take the same trial: rows that another one has locked are passed over.
    """
    if k < 1:
        return []
    enqueued_first = case((Trial.origin == "enqueued", 0), else_=1)
    chosen = (
        select(Trial.id)
        .where(Trial.study_id == study_id, Trial.state == "waiting", Trial.until > Trial.step)
        .order_by(enqueued_first, Trial.step.desc(), Trial.number)
        .limit(k)
        .with_for_update(skip_locked=True)
    )
    taken = session.connection().execute(
        update(_table)
        .where(_table.c.id.in_(chosen.scalar_subquery()))
        .values(
            state="running",
            paused=False,
            worker_id=lease.worker_id,
            lease_token=lease.token,
            lease_expires_at=lease.expires_at,
            revision=revision,
            started_at=func.coalesce(_table.c.started_at, now),
        )
        .returning(*[_table.c[column.key] for column in COLUMNS])
    )
    return sorted((TrialRow(*list(row)) for row in taken), key=lambda row: row.number)


def renew(session: Session, held: Mapping[int, str], expires_at: datetime) -> set[int]:
    """Prolongs the leases that are named with their present token; needs no study's lock.

    Returns:
        The trials whose lease is lost.
    """
    if not held:
        return set()
    # Rows that a report has locked are passed over: the report renews them itself.
    rows = session.execute(select(Trial.id, Trial.lease_token).where(Trial.id.in_(list(held))))
    good = {row.id for row in rows if row.lease_token == held[row.id]}
    mine = (
        select(Trial.id)
        .where(Trial.id.in_(good), Trial.lease_token.in_(set(held.values())))
        .order_by(Trial.id)
        .with_for_update(skip_locked=True)
    )
    session.connection().execute(
        update(_table)
        .where(_table.c.id.in_(mine.scalar_subquery()))
        .values(lease_expires_at=expires_at)
    )
    return set(held) - good


def expired(session: Session, now: datetime, limit: int = 10_000) -> dict[int, list[int]]:
    """Trials whose lease has run out, by study; needs no study's lock, so look again under it."""
    rows = session.execute(
        select(Trial.study_id, Trial.id)
        .where(Trial.lease_expires_at < now)
        .order_by(Trial.lease_expires_at)
        .limit(limit)
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


def leased_of(session: Session, study_id: int) -> list[TrialRow]:
    """A study's trials that somebody holds."""
    return select_rows(
        session,
        select(*COLUMNS).where(
            Trial.study_id == study_id, Trial.state == "running", Trial.lease_token.is_not(None)
        ),
    )


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

    The next attempt starts from the last checkpoint, and from scratch where there is none.
    """
    if row.attempt >= max_attempts:
        row.end("fail", LEASE_EXPIRED, now)
        return "fail"
    next_attempt(row)
    return "waiting"


def next_attempt(row: TrialRow) -> None:
    """Puts a trial back into the queue for another attempt."""
    row.wait()
    row.attempt += 1
    row.step = int(row.checkpoint["step"]) if row.checkpoint else 0


def expire(
    rows: Iterable[TrialRow], *, max_attempts: int, now: datetime
) -> list[tuple[TrialRow, Outcome]]:
    """Applies :func:`give_up` to those of the locked rows whose lease has really run out."""
    return [
        (row, give_up(row, max_attempts=max_attempts, now=now))
        for row in rows
        if row.lease_expires_at is not None and row.lease_expires_at < now
    ]
