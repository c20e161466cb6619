"""Probes: a study's range test has one holder, under a token, for a time; as a trial has.

Callers hold the lock of the study's row (``tuner.storage.studies.lock``) except where a function
says that it needs none.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from tuner.queue.leases import LEASE_EXPIRED, Lease
from tuner.storage.models import OPEN_PROBE_STATES, Probe
from tuner.storage.studies import StudyRow


def add(session: Session, study_id: int, *, within: bool) -> None:
    """A range test that waits for a worker."""
    session.add(Probe(study_id=study_id, within=within, state="waiting", attempt=1))
    session.flush()


def get(session: Session, study_id: int) -> Probe | None:
    """The study's range test, if it has one; needs no lock to be looked at."""
    return session.get(Probe, study_id, populate_existing=True)


def of(session: Session, study_ids: Collection[int]) -> dict[int, Probe]:
    """The range tests of those studies that have one; needs no lock to be looked at."""
    if not study_ids:
        return {}
    rows = session.scalars(select(Probe).where(Probe.study_id.in_(study_ids)))
    return {probe.study_id: probe for probe in rows}


def lock(session: Session, study_id: int) -> Probe | None:
    """The study's range test, locked until the transaction ends."""
    return session.get(Probe, study_id, populate_existing=True, with_for_update=True)


def claim(session: Session, study_id: int, lease: Lease, now: datetime) -> Probe | None:
    """Gives a waiting range test to the lease's holder."""
    probe = lock(session, study_id)
    if probe is None or probe.state != "waiting":
        return None
    probe.state, probe.worker_id = "running", lease.worker_id
    probe.lease_token, probe.lease_expires_at = lease.token, lease.expires_at
    probe.started_at = probe.started_at or now
    return probe


def owns(probe: Probe | None, token: str) -> bool:
    """Whether ``token`` is the probe's present lease."""
    return (
        probe is not None
        and probe.lease_token is not None
        and secrets.compare_digest(probe.lease_token.encode(), token.encode())
    )


def renew(session: Session, held: Mapping[int, str], expires_at: datetime) -> set[int]:
    """Prolongs the leases that are named with their present token; needs no lock.

    Returns:
        The studies whose probe is lost.
    """
    good = {i: probe.lease_token for i, probe in of(session, held).items() if owns(probe, held[i])}
    for study_id, token in list(good.items()):
        renewed = session.connection().execute(
            update(Probe)
            .where(Probe.study_id == study_id, Probe.lease_token == token)
            .values(lease_expires_at=expires_at)
        )
        if renewed.rowcount == 0:  # lost this very moment
            del good[study_id]
    return set(held) - set(good)


def expired(session: Session, now: datetime) -> list[int]:
    """Studies whose probe's lease has run out; needs no lock, so look again under it."""
    return list(session.scalars(select(Probe.study_id).where(Probe.lease_expires_at < now)))


def held_by(session: Session, worker_id: int) -> list[int]:
    """Studies whose probe a worker holds; needs no lock."""
    query = select(Probe.study_id).where(
        Probe.worker_id == worker_id, Probe.lease_token.is_not(None)
    )
    return list(session.scalars(query))


def under(session: Session, token: str, worker_id: int) -> int | None:
    """The study whose probe a worker holds under a token; needs no lock."""
    query = select(Probe.study_id).where(Probe.worker_id == worker_id, Probe.lease_token == token)
    return session.scalar(query)


def wait(probe: Probe) -> None:
    """Puts it back, for another worker."""
    probe.state, probe.lease_token, probe.lease_expires_at = "waiting", None, None


def end(
    study: StudyRow,
    probe: Probe,
    state: str,
    bounds: tuple[float, float] | None,
    now: datetime,
    *,
    reason: str | None = None,
    result: dict[str, Any] | None = None,
) -> None:
    """Its last change: the study may start trials, in ``bounds`` or as it was submitted."""
    probe.state, probe.lease_token, probe.lease_expires_at = state, None, None
    probe.reason, probe.result, probe.finished_at = reason, result, now
    study.lr_range = {} if bounds is None else {"low": bounds[0], "high": bounds[1]}


def give_up(probe: Probe, *, max_attempts: int) -> str | None:
    """Ends the lease of a holder that fell silent: another attempt, or the reason for the end."""
    if probe.attempt >= max_attempts:
        return LEASE_EXPIRED
    wait(probe)
    probe.attempt += 1
    return None


def is_open(probe: Probe | None) -> bool:
    """Whether it waits or runs."""
    return probe is not None and probe.state in OPEN_PROBE_STATES
