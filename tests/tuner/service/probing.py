"""A worker that runs range tests by formula, for tests of the service under them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.tuner.service.simulation import Trainer, submit
from tuner import service
from tuner.advisor.range_test import SEEDS, STEPS, rates
from tuner.protocol import LeaseRequest, Probe, ProbeReport, Report
from tuner.service import Context, StudyView

DROP, RUIN = 1e-4, 1e-2


def losses(drop: float = DROP, ruin: float = RUIN) -> list[list[float | None]]:
    """Loss curves that fall about ``drop`` and go back up at ``ruin``; then they are lost."""
    x = np.log10(rates())
    fall = 1.7 / (1 + np.exp(-4 * (x - math.log10(drop) - 0.5)))
    rise = 40 * np.clip(x - math.log10(ruin), 0, None) ** 2
    noise = 0.01 * np.random.default_rng(0).standard_normal((SEEDS, STEPS))
    curve = (2.3 - fall + rise + noise).tolist()
    return [[None if value > 30 else value for value in row] for row in curve]


def flat() -> list[list[float | None]]:
    noise = 0.01 * np.random.default_rng(0).standard_normal((SEEDS, STEPS))
    return [list(row) for row in (2.3 + noise).tolist()]


def auto(ctx: Context, name: str = "auto", **changes: Any) -> StudyView:
    return submit(ctx, name, **{"space": "auto", **changes})


def given(ctx: Context, worker: Trainer, k: int = 4) -> Probe:
    """The probe that a worker is given; no trial comes with it."""
    answer = service.lease(ctx, worker.id, LeaseRequest(k=k))
    assert answer.probe is not None
    assert answer.leased == []
    return answer.probe


def say(ctx: Context, worker: Trainer, probe: Probe, **what: Any) -> None:
    report = ProbeReport(study_id=probe.study_id, token=probe.token, **what)
    service.report(ctx, worker.id, Report(slots=[], probe=report))


def measure(ctx: Context, worker: Trainer, probe: Probe) -> None:
    say(ctx, worker, probe, outcome="measured", losses=losses(), seconds=2.5)


def range_of(ctx: Context, study: StudyView) -> Any:
    found = service.show_study(ctx, study.id).range_test
    assert found is not None
    return found


def states(ctx: Context, study: StudyView) -> list[str]:
    told = service.events(ctx, study_id=study.id, limit=1000)
    return [event.data["state"] for event in told if event.kind == "probe.state"]


def lrs(ctx: Context, study: StudyView) -> list[float]:
    return [t.params["lr"] for t in service.list_trials(ctx, study.id, limit=1000).items]
