"""The critical batch size, from how soon the trials of each batch size came down to a target."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy.orm import Session

from tuner.advisor.critical_batch import CriticalBatch, fit_critical_batch, reached
from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.service.studies import plan_of
from tuner.storage import measurements, studies, trials

LEAST_SIZES = 3
Runs = dict[tuple[int, int], float]
"""Batch size and seed to the fewest steps."""


def critical_batch(ctx: Context, study_ids: Sequence[int], target: float) -> CriticalBatch:
    """Where more samples a step stop saving steps on the way to ``target``.

    Of each batch size, and each seed, the learning rate counts that came there first.

    Args:
        ctx: The service.
        study_ids: Whose trials, pruned ones included.
        target: Of the objective, in its own sense.

    Raises:
        NotFound: No such study.
        InvalidInput: Too few runs reach the target.
    """
    if not math.isfinite(target):
        raise InvalidInput("target", f"{target!r} is not a finite number")
    best: Runs = {}
    with ctx.db.session() as session:
        for study_id in dict.fromkeys(study_ids):
            for key, steps in _of_study(ctx, session, study_id, target).items():
                best[key] = min(steps, best.get(key, math.inf))
    sizes = sorted({size for size, _ in best})
    if len(sizes) < LEAST_SIZES:
        said = ", ".join(map(str, sizes)) or "none"
        raise InvalidInput(
            "target",
            f"it takes trials of {LEAST_SIZES} batch sizes that come to {target:g} after their "
            f"first evaluation; these do: {said}",
        )
    try:
        return fit_critical_batch([size for size, _ in best], list(best.values()))
    except InvalidInput as error:
        raise InvalidInput("target", f"too few runs reach {target:g}: {error.message}") from error


def _of_study(ctx: Context, session: Session, study_id: int, target: float) -> Runs:
    """Optimizer steps to the target of each batch size and seed of one study."""
    study = studies.get(session, study_id)
    checked = plan_of(ctx, study)
    sign = 1.0 if study.directions[0] == "minimize" else -1.0
    curves = measurements.curves(session, study_id)
    last = measurements.last_of_study(session, study_id)
    found: Runs = {}
    for row in trials.of_study(session, study_id, states=("complete", "pruned")):
        config = row.params if checked is None else checked.space.fill(row.params)
        size, point = config.get("batch_size"), last.get(row.id)
        if not isinstance(size, int) or point is None or not point.samples:
            continue
        curve = {step: sign * value for step, value in curves.get(row.id, {}).items()}
        periods = reached(curve, sign * target)
        if periods is None:
            continue
        steps = periods * point.samples / point.step / size
        key = (size, row.seed)
        found[key] = min(steps, found.get(key, math.inf))
    return found
