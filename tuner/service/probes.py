"""Range tests: which learning rates a study searches, measured by a worker before its first trial.

A study that asks for one starts no trial until it has ended, and it always ends: measured; failed,
by the task, by divergence everywhere, or because its holders fell silent too often; or skipped,
since the study was stopped, its trials were asked for by a loop of the user's own, or its space was
changed. In all but the first case the study searches the range that it was submitted with. It is no
trial and counts towards no budget but that of wall time.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from tuner.advisor.range_test import HIGHEST, LOWEST, SEEDS, STEPS, RangeTest, analyse, rates
from tuner.errors import LONGEST_REASON, InvalidInput, NotFound
from tuner.protocol import Probe, ProbeReport
from tuner.queue import probes
from tuner.queue.leases import LEASE_EXPIRED
from tuner.service.claims import Claim
from tuner.service.context import Context
from tuner.service.turn import Turn
from tuner.service.turns import take
from tuner.service.views import RangeEvidence, range_fields
from tuner.spec import Checked, range_test
from tuner.spec.range_test import LrRange
from tuner.storage import studies, trials
from tuner.storage.events import NewEvent
from tuner.storage.models import Probe as StoredProbe
from tuner.storage.studies import OPEN_STATES

log = logging.getLogger(__name__)


def offer(ctx: Context, study_id: int, claim: Claim) -> Probe | None:
    """The study's range test, for a worker to run; None where another one has it by now.

    Raises:
        AnsweredBefore: The request was given something before.
    """

    def take_it(taken: dict[int, Turn]) -> Probe | None:
        this = taken.get(study_id)
        if this is None or this.study.state not in OPEN_STATES or not this.study.probing:
            return None
        lease = claim.lease(ctx, this)
        probe = probes.claim(this.session, study_id, lease, this.now)
        if probe is None:
            return None
        claim.keep(this)
        this.state("running")
        this.go_on()
        _note(this, probe)
        return _message(this.checked, study_id, lease.token)

    return claim.take(ctx, study_id, take_it)


def still_held(ctx: Context, token: str, worker_id: int) -> Probe | None:
    """The range test that a request was given before, if it is still held under its token."""
    with ctx.db.session() as session:
        study_id = probes.under(session, token, worker_id)
        if study_id is None:
            return None
        checked = ctx.searches.plans.of(studies.get(session, study_id))
    return _message(checked, study_id, token)


def take_in(ctx: Context, report: ProbeReport, *, actor: str | None = None) -> None:
    """What a worker says of a probe that it was given.

    Said again, or by one that lost its lease, it changes nothing.

    Raises:
        InvalidInput: The losses are not those of the test that was asked for; nothing is stored.
    """

    def deliver(taken: dict[int, Turn]) -> None:
        this = taken.get(report.study_id)
        probe = None if this is None else probes.lock(this.session, report.study_id)
        if this is None or probe is None or not probes.owns(probe, report.token):
            log.info("a probe of study %d is not its holder's any more", report.study_id)
            return
        this.revised = True
        this.study.device_seconds += report.seconds
        if report.outcome == "returned":
            probes.wait(probe)
            _note(this, probe, reason="returned")
        elif report.outcome == "failed":
            this.end_probe("failed", (report.reason or "error")[:LONGEST_REASON])
        else:
            _judge(this, probe, report)
        this.rest()

    take(ctx, [report.study_id], deliver, actor=actor)


def show_range(ctx: Context, study_id: int) -> RangeEvidence:
    """The study's range test, with what it measured.

    Raises:
        NotFound: No such study, or it has no range test.
    """
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
        probe = probes.get(session, study_id)
    if probe is None:
        raise NotFound("range test of study", study_id)
    kept = probe.result or {}
    return RangeEvidence(
        **range_fields(study, probe),
        config=kept.get("config") or {},
        drop=kept.get("drop"),
        divergence=kept.get("divergence"),
        lr=kept.get("lr") or [],
        loss=kept.get("loss") or [],
        started_at=probe.started_at,
        finished_at=probe.finished_at,
    )


def skip(turn: Turn, reason: str) -> None:
    """Ends a probe that is not needed any more; without one nothing happens."""
    if turn.study.probing:
        turn.end_probe("skipped", reason)


def reclaim(ctx: Context, turn: Turn) -> None:
    """A probe whose holder fell silent waits for another, or fails after too many attempts."""
    probe = probes.lock(turn.session, turn.study.id)
    if probe is None or probe.lease_expires_at is None or probe.lease_expires_at >= turn.now:
        return
    ended = probe.lease_expires_at
    reason = probes.give_up(probe, max_attempts=ctx.settings.max_attempts)
    if reason is None:
        _note(turn, probe, reason=LEASE_EXPIRED)
    else:
        turn.end_probe("failed", reason)
    turn.rest(ended)


def give_back(turn: Turn, worker_id: int) -> None:
    """A worker that leaves still held the probe: another one may take it."""
    probe = probes.lock(turn.session, turn.study.id)
    if probe is not None and probe.worker_id == worker_id and probe.lease_token is not None:
        probes.wait(probe)
        _note(turn, probe, reason="returned")
        turn.rest()


def _judge(turn: Turn, probe: StoredProbe, report: ProbeReport) -> None:
    checked = turn.checked
    config = range_test.tested(checked.space)
    found = _found(checked, config, report.losses)
    known = (row.params.get("lr") for row in trials.of_study(turn.session, turn.study.id))
    tried = [float(lr) for lr in known if isinstance(lr, int | float)]
    decided = range_test.chosen(checked.space, found, within=probe.within, tried=tried)
    turn.end_probe(
        "measured" if decided.measured else "failed",
        None if decided.measured else decided.reasons[-2],
        (decided.low, decided.high) if decided.measured else None,
        _evidence(found, decided, config, report.seconds),
    )


def _found(checked: Checked, config: dict[str, Any], losses: list[list[float | None]]) -> RangeTest:
    if len(losses) != SEEDS or any(len(row) != STEPS for row in losses):
        raise InvalidInput("probe.losses", f"expected {SEEDS} rows of {STEPS} losses")
    raw = np.array([[np.nan if x is None else x for x in row] for row in losses], dtype=np.float64)
    optimizer = str(config["optimizer"])
    found = analyse(rates(), raw, optimizer)
    if not found.measured:
        return found
    smallest, largest = range_test.batch_sizes(checked.space)
    return found.across(float(config["batch_size"]), smallest, largest, optimizer)


def _evidence(
    found: RangeTest, decided: LrRange, config: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """What is kept: the curve to four digits, and how the range came about."""
    kept = found.to_dict()
    kept["lr"] = [float(f"{x:.4g}") for x in kept["lr"]]
    kept["loss"] = [None if x is None else float(f"{x:.4g}") for x in kept["loss"]]
    return kept | {"reasons": list(decided.reasons), "config": config, "seconds": seconds}


def _message(checked: Checked, study_id: int, token: str) -> Probe:
    task = checked.spec.task
    if task is None:
        raise RuntimeError("a study without a task has no range test")
    return Probe(
        study_id=study_id,
        token=token,
        task=task.name,
        task_params=task.params,
        config=range_test.tested(checked.space),
        low=LOWEST,
        high=HIGHEST,
        steps=STEPS,
        seeds=SEEDS,
    )


def _note(turn: Turn, probe: StoredProbe, **data: Any) -> None:
    data["state"] = probe.state
    turn.events.append(NewEvent("probe.state", turn.study.id, worker_id=probe.worker_id, data=data))
