"""How much each hyperparameter matters, by Optuna's evaluators over complete trials.

PED-ANOVA asks which hyperparameters a trial must get right to be among the best tenth; fANOVA,
which ones explain the spread of all values, the hopeless ones included. The first takes
milliseconds at any size. The second grows with the square of the trials (72 s of processor time for
2,000 on one core), so it is given a sample, and computed only where somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial
from pydantic import Field

from tuner.errors import InvalidInput
from tuner.service.context import Context
from tuner.service.results import in_memory
from tuner.service.studies import metrics_of, plan_of
from tuner.service.views import View
from tuner.storage import measurements, pictures, studies
from tuner.storage.models import FINISHED_STUDY_STATES
from tuner.storage.studies import StudyRow

Evaluator = Literal["ped_anova", "fanova"]
FEWEST = 4
GOOD_SECONDS = 15.0
"""While a study of many trials runs its importances are computed at most this often."""
MANY = 20
"""Trials; those of fewer are quick to compute, and each one changes much."""


@dataclass(frozen=True)
class Method:
    """One evaluator of Optuna's.

    Args:
        title: What the field calls it.
        meaning: What a large share says, for the one who reads it.
        most: Trials it is given; more are sampled evenly over their numbers.
        evaluator: Its class in ``optuna.importance``, looked up late: it loads scikit-learn.
        options: Its arguments.
    """

    title: str
    meaning: str
    most: int
    evaluator: str
    options: Mapping[str, Any] = field(default_factory=dict)


METHODS: Mapping[Evaluator, Method] = {
    "ped_anova": Method(
        "PED-ANOVA",
        "How much a hyperparameter decides whether a trial is among the best tenth. A large share: "
        "search it finely. A small one: any value in the range does about as well.",
        1000,
        "PedAnovaImportanceEvaluator",
    ),
    "fanova": Method(
        "fANOVA",
        "How much of the spread of all values a hyperparameter explains, those of bad trials "
        "included. A large share: it can ruin a training. It says where to look, not which way "
        "to go.",
        200,
        "FanovaImportanceEvaluator",
        {"seed": 0},
    ),
}


class Importances(View):
    """How much each parameter matters for the first objective; the shares add up to 1."""

    study_id: int
    metric: str
    evaluator: Evaluator
    title: str = Field(description="What the field calls the evaluator.")
    meaning: str = Field(description="What a large share says.")
    trials: int = Field(description="Complete trials that they are computed from.")
    complete: int = Field(description="Complete trials of the study.")
    importances: dict[str, float]
    reason: str | None = Field(None, description="Why there are none.")


def importances(ctx: Context, study_id: int, *, evaluator: Evaluator = "ped_anova") -> Importances:
    """How much each parameter matters for the first objective.

    Raises:
        NotFound: No such study.
        InvalidInput: No such evaluator.
    """
    if evaluator not in METHODS:
        raise InvalidInput("evaluator", f"{evaluator!r} is none of {', '.join(METHODS)}")
    with ctx.db.session() as session:
        study = studies.get(session, study_id)
    dear = study.next_number >= MANY and study.state not in FINISHED_STUDY_STATES
    return ctx.memo.get(
        ("importances", study_id, evaluator),
        study.revision,
        lambda: _computed(ctx, study, evaluator),
        good_seconds=GOOD_SECONDS if dear else 0.0,
    )


def _computed(ctx: Context, study: StudyRow, evaluator: Evaluator) -> Importances:
    checked = plan_of(ctx, study)
    method = METHODS[evaluator]
    usable, complete = _usable(ctx, study, method.most)
    shared = set.intersection(*(set(trial.params) for trial in usable)) if usable else set()
    varied = sorted(n for n in shared if len({repr(t.params[n]) for t in usable}) > 1)
    reason = None
    if len(usable) < FEWEST:
        reason = f"it takes {FEWEST} complete trials, not {len(usable)}"
    elif not varied:
        reason = "no parameter differs between the complete trials"
    elif len({trial.values[0] for trial in usable}) < 2:
        reason = "all complete trials have the same value"
    return Importances(
        study_id=study.id,
        metric=metrics_of(checked)[0],
        evaluator=evaluator,
        title=method.title,
        meaning=method.meaning,
        trials=len(usable),
        complete=complete,
        importances={} if reason else _evaluated(study, usable, varied, method),
        reason=reason,
    )


def _usable(ctx: Context, study: StudyRow, most: int) -> tuple[list[FrozenTrial], int]:
    """Complete trials with a finite first objective, at most ``most``, and how many there are."""
    with ctx.db.session() as session:
        ids = [
            one.id
            for one in pictures.outcomes(session, study.id, 1)
            if one.state == "complete" and measurements.finite(one.values[0]) is not None
        ]
        chosen = [ids[k * len(ids) // most] for k in range(most)] if len(ids) > most else ids
        found = pictures.frozen_trials(session, chosen)
    for trial in found:
        trial.values = trial.values[:1]
    return found, len(ids)


def _evaluated(
    study: StudyRow, usable: Sequence[FrozenTrial], varied: list[str], method: Method
) -> dict[str, float]:
    copy = in_memory(study.name, study.directions[:1], usable)
    evaluator = getattr(optuna.importance, method.evaluator)(**method.options)
    found = optuna.importance.get_param_importances(copy, evaluator=evaluator, params=varied)
    return {name: float(share) for name, share in found.items()}
