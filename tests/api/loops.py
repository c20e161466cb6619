"""A user's own loop over the service, as tests run it: a bowl in log lr, measured step by step."""

from __future__ import annotations

import math
from typing import Any

from tuner import service
from tuner.protocol import Measured
from tuner.service import Asked, Context, StudyView
from tuner.spec import StudySpec

STEPS = 3


def submitted(context: Context, spec: dict[str, Any], **changes: Any) -> StudyView:
    """The study, queued."""
    return service.submit(context, StudySpec.parse({**spec, **changes}), actor="ada")


def loss(config: dict[str, Any], step: int) -> float:
    """What a trial of this configuration measures: better with steps, best at lr 1e-3."""
    return math.log10(config["lr"] / 1e-3) ** 2 + 1 / step


def measure(context: Context, asked: Asked, step: int) -> str:
    """Reports one step; says what the service wants next."""
    value = loss(asked.config, step)
    measured = Measured(
        step=step,
        metrics={"val_loss": value, "train_loss": 0.9 * value},
        samples=100 * step,
        seconds=0.1 * step,
    )
    return service.report_trial(context, asked.trial_id, asked.token, measured).action


def train(context: Context, study_id: int, trials: int = 1000) -> int:
    """Runs up to ``trials`` trials to their end, one after another; says how many there were."""
    for done in range(trials):
        asked = service.ask(context, study_id, 1, actor="loop")
        if not asked:
            return done
        for step in range(1, STEPS + 1):
            if measure(context, asked[0], step) in ("stop", "finish"):
                break
    return trials
