"""Curves of trials that were tried again, read in every way there is."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert, select

from tuner.storage import measurements, studies
from tuner.storage.engine import Database
from tuner.storage.models import Measurement, Trial
from tuner.storage.optuna import frozen

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CASES = [
    ([(1, 2, 3)], {1: 11, 2: 12, 3: 13}),
    ([(1, 2, 3, 4), (3,)], {1: 11, 2: 12, 3: 23}),
    ([(1, 2, 3, 4), (1, 2)], {1: 21, 2: 22}),
    ([(1, 2, 3, 4), (3, 4, 5), (4,)], {1: 11, 2: 12, 3: 23, 4: 34}),
    ([(1, 2, 3), (5,)], {1: 11, 2: 12, 3: 13, 5: 25}),
    ([(1, 2, 3, 4), (-2, 3)], {1: 11, 3: 23}),
    ([(1, 2, 3, 4), (-2,)], {1: 11}),
    ([(1, 2), (-1,)], {}),
]
"""The steps of each attempt, those below 0 without a finite value; what the curve is then."""


@pytest.mark.parametrize(("attempts", "curve"), CASES)
def test_an_attempt_replaces_from_its_first_step_on_whoever_reads(
    database: Database, attempts: list[tuple[int, ...]], curve: dict[int, float]
) -> None:
    with database.write() as session:
        made = {"name": "s", "directions": ["minimize"], "created_at": NOW, "spec": {"a": 1}}
        study_id = studies.add(session, made)
        same = {"study_id": study_id, "params": {}, "distributions": {}, "created_at": NOW}
        session.execute(insert(Trial), [{"number": n, "seed": 0, **same} for n in range(3)])
        ids = list(session.scalars(select(Trial.id).order_by(Trial.number)))
        for trial_id in ids:
            for attempt, steps in enumerate(attempts, 1):
                for step in steps:
                    value = 10.0 * attempt + step if step > 0 else math.nan
                    row = frozen.measured(trial_id, attempt, abs(step), value, NOW)
                    session.execute(insert(Measurement), [row])
    with database.session() as session:
        whole = measurements.curves(session, study_id)
        lines = measurements.lines(session, ids, None)
        points = session.execute(select(*frozen.CURVE_COLUMNS).order_by(*frozen.CURVE_ORDER)).all()
        optuna = frozen.curves(points, "value")
        for trial_id in ids:
            assert whole.get(trial_id, {}) == curve
            line = lines.get(trial_id)
            shown = {} if line is None else dict(zip(line.steps, line.values, strict=True))
            assert shown == curve
            assert {s: v for s, v in optuna[trial_id].items() if math.isfinite(v)} == curve
            for after in range(6):
                read = measurements.of_trial(session, trial_id, after)
                told = {p.step: p.value for p in read if p.value is not None}
                assert told == {s: v for s, v in curve.items() if s > after}
                assert [p.step for p in read] == sorted({p.step for p in read})
