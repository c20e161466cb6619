"""What a study would do, before it is submitted: configurations, learning rates, cost."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tuner import tasks
from tuner.errors import InvalidInput
from tuner.schedules import plan
from tuner.service.context import Context
from tuner.service.datasets import located
from tuner.service.studies import accepted
from tuner.service.thinning import short
from tuner.spec import Checked, StudySpec, facts, freeze, optimizer_steps
from tuner.storage import pictures

SAMPLES = 10
RATE_POINTS = 61
UNKNOWN_STEPS = 1000
"""Optimizer steps that stand for a training whose samples only its loop or its worker can count."""
DEFAULT_LR = 1e-3
"""Drawn where a space has none; the training takes the optimizer's own."""


class Preview(BaseModel):
    """What a study would do, without storing anything."""

    model_config = ConfigDict(frozen=True)

    spec: dict[str, Any] = Field(description="The study file with its defaults filled in.")
    grid_size: int | None = Field(description="Points of the space; null: a continuum.")
    samples: list[dict[str, Any]] = Field(description="Ten configurations it might try.")
    rates: list[list[float]] = Field(
        description="The learning rate of each sample, evenly over its training; empty: unknown."
    )
    trials: int | None = Field(description="The most trials it runs; null: as many as fit.")
    total_epochs: float | None = Field(description="The most epochs; null: until another bound.")
    device_seconds: float | None = Field(
        description="What the most epochs would take, by earlier trials of this task; null: none."
    )


def preview(ctx: Context, spec: StudySpec) -> Preview:
    """Checks a study and says what it would do; stores nothing.

    Raises:
        InvalidInput: A value is wrong.
    """
    checked = accepted(ctx, spec)
    samples = [checked.space.fill(params) for params in _suggested(checked)]
    bounds = [b for b in (checked.budget.trials, _grid(checked)) if b is not None]
    count = min(bounds, default=None)
    epochs = [float(checked.spec.budget.total_epochs or 0)] if checked.spec.budget else []
    if count is not None:
        epochs.append(count * checked.max_step * checked.spec.eval_every)
    total = min((e for e in epochs if e), default=None)
    pace = None
    if total is not None and checked.spec.task is not None:
        with ctx.db.session() as session:
            pace = pictures.seconds_per_epoch(session, checked.spec.task.name)
    return Preview(
        spec=checked.spec.to_dict(),
        grid_size=checked.space.grid_size,
        samples=samples,
        rates=[_rates(ctx, checked, config) for config in samples],
        trials=count,
        total_epochs=total,
        device_seconds=None if pace is None or total is None else pace * total,
    )


def _suggested(checked: Checked) -> list[dict[str, Any]]:
    """What the search tries first, and random points where it wants to see results before more."""
    suggested = [s.params for s in checked.search().suggest(SAMPLES)]
    if len(suggested) < SAMPLES and checked.spec.sampler and checked.spec.sampler.name != "grid":
        rng = np.random.default_rng(checked.spec.seed)
        axes = len(checked.space.searched)
        more = (checked.space.from_unit(rng.random(axes)) for _ in range(SAMPLES))
        suggested += islice(more, SAMPLES - len(suggested))
    return suggested


def _grid(checked: Checked) -> int | None:
    grid = checked.spec.sampler is not None and checked.spec.sampler.name == "grid"
    return checked.space.grid_size if grid else None


def _rates(ctx: Context, checked: Checked, config: Mapping[str, Any]) -> list[float]:
    """The learning rate over a training, as its schedule has it from the start."""
    epochs = float(config.get("epochs", checked.max_step * checked.spec.eval_every))
    task, steps = checked.spec.task, UNKNOWN_STEPS
    try:
        if task is not None and task.name in tasks.registry:
            size = facts(task.name, freeze(located(ctx, task.params))).train_size
            steps = optimizer_steps(config, size, epochs)
        made = plan.Plan.of(config, steps, epochs=epochs, lr=DEFAULT_LR)
    except InvalidInput:
        return []  # an own loop's or a script's names may mean what they like
    at = [round(i * (steps - 1) / (RATE_POINTS - 1)) for i in range(RATE_POINTS)]
    table, _ = plan.stack([made] * RATE_POINTS, at, 1)
    return [short(made.lr0 * float(multiplier)) for multiplier in table[0]]
