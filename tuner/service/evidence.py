"""What a stored trial was of: its whole configuration, and what all trials of its study share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from tuner.service.context import Context
from tuner.service.studies import plan_of
from tuner.spec import Checked
from tuner.spec.names import completed
from tuner.storage import offers, studies
from tuner.storage.trials import TrialRow


@dataclass(frozen=True)
class Setting:
    """What all trials of a study have in common.

    Attributes:
        facts: Task and its parameters, metric, direction and epochs. Trials of studies that differ
            in one of them are not of one setting.
        sign: Of a value, so that lower is better.
        checked: The study as submitted, if it was.
        ours: Whether our own workers train it, so that where a configuration is silent their
            defaults hold; what a script or somebody's loop does there is unknown.
    """

    facts: Mapping[str, Any]
    sign: float
    checked: Checked | None
    ours: bool

    def config(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All that is known of what a trial with these suggested values was trained with."""
        config = dict(params) if self.checked is None else self.checked.space.fill(params)
        return completed(config) if self.ours else config

    def cut_short(self, row: TrialRow) -> bool:
        """Whether a complete trial ended before its last step, such as by patience or a target.

        A loop of the user's own says itself when a trial is complete, and may report nothing.
        """
        if self.checked is None or not (self.ours or row.reason):
            return False
        return 0 < row.step < self.checked.last_step(row.params)


def setting_of(ctx: Context, session: Session, study_id: int) -> Setting:
    """What the trials of a study share.

    Raises:
        NotFound: No such study.
    """
    study = studies.get(session, study_id)
    checked = plan_of(ctx, study)
    direction = study.directions[0]
    sign = 1.0 if direction == "minimize" else -1.0
    if checked is None:
        return Setting({"direction": direction}, sign, None, ours=False)
    facts: dict[str, Any] = {"direction": direction, "metric": checked.objectives[0].metric}
    if checked.spec.budget is not None:
        facts["epochs"] = checked.spec.budget.epochs
    task = checked.spec.task
    if task is None:
        return Setting(facts, sign, checked, ours=False)
    facts |= {"task": task.name, **{f"task.{name}": value for name, value in task.params.items()}}
    return Setting(facts, sign, checked, ours=task.name not in offers.scripts(session))
