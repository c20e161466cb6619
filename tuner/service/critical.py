"""The critical batch size, from how soon the trials of each batch size came down to a target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from tuner.advisor.critical_batch import CriticalBatch, fit_critical_batch, reached
from tuner.advisor.observations import FOLLOWERS, distinct, refuse_mixture
from tuner.advisor.surface import CONTINUOUS
from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.service.evidence import setting_of
from tuner.storage import measurements, trials

LEAST_SIZES = 3
TUNED = CONTINUOUS | FOLLOWERS
"""What may differ beside the learning rate: numbers of which the best count, as of the rate."""
Runs = dict[tuple[int, int], float]
"""Batch size and seed to the fewest steps."""


def critical_batch(ctx: Context, study_ids: Sequence[int], target: float) -> CriticalBatch:
    """Where more samples a step stop saving steps on the way to ``target``.

    Of each batch size, and each seed, the trial counts that came there first. So what was tuned
    with the learning rate may differ between trials, and nothing else.

    Args:
        ctx: The service.
        study_ids: Whose trials, pruned ones included.
        target: Of the objective, in its own sense.

    Raises:
        NotFound: No such study.
        InvalidInput: Too few runs reach the target.
        Refusal: The trials that reach it are of several settings; it names what differs.
    """
    if not math.isfinite(target):
        raise InvalidInput("target", f"{target!r} is not a finite number")
    best: Runs = {}
    facts: list[Mapping[str, Any]] = []
    with ctx.db.session() as session:
        for study_id in dict.fromkeys(study_ids):
            for config, key, steps in _of_study(ctx, session, study_id, target):
                facts.append(config)
                best[key] = min(steps, best.get(key, math.inf))
    refuse_mixture(
        {name: values for name, values in distinct(facts).items() if name not in TUNED},
        "steps to a target compare within one setting, so name studies that share it",
    )
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


def _of_study(
    ctx: Context, session: Session, study_id: int, target: float
) -> Iterator[tuple[Mapping[str, Any], tuple[int, int], float]]:
    """What was trained, batch size and seed, and optimizer steps to the target."""
    setting = setting_of(ctx, session, study_id)
    curves = measurements.curves(session, study_id)
    last = measurements.last_of_study(session, study_id)
    for row in trials.of_study(session, study_id, states=("complete", "pruned")):
        config = setting.config(row.params)
        size, point = config.get("batch_size"), last.get(row.id)
        if not isinstance(size, int) or point is None or not point.samples:
            continue
        curve = {step: setting.sign * value for step, value in curves.get(row.id, {}).items()}
        periods = reached(curve, setting.sign * target)
        if periods is not None:
            steps = periods * point.samples / point.step / size
            yield {**setting.facts, **config}, (size, row.seed), steps
