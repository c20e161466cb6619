"""Runs an Optuna sampler on a history: an in-memory study is made of it, asked, and thrown away.

So the sampler's state lives where everything else does, in the trials (an Optuna sampler keeps it
in a trial's ``system_attrs``, which become the note), and its answer depends on the history alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from optuna import Study, Trial
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.samplers import COMPLETE, DIVERGED, PARTIAL, PENDING, VOID, History, Proposal, Sampler
from tuner.spaces import Categorical, Float, Scalar, Searched

ATTRS = "attrs"


class OptunaSampler(Sampler):
    """A sampler that Optuna wrote, or that is written for Optuna.

    What Optuna has no word for is told so: a trial set aside or pruned counts with its last value,
    a diverged one with the worst value seen.
    """

    most_trials: ClassVar[int] = 2_000
    """The latest trials that are shown; older ones cost time and say little."""

    @abstractmethod
    def make(self, seed: int) -> BaseSampler:
        """The sampler, fresh."""

    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """Asks the study ``k`` times; each answer is a running trial for the next."""
        storage = InMemoryStorage()
        directions = [StudyDirection.MINIMIZE] * self.objectives
        storage.create_new_study(directions, "history")
        study = Study("history", storage, self.make(0))
        study.add_trials(self._trials(history))
        out: list[Proposal] = []
        for i in range(draw, draw + k):
            study.sampler = self.make(int(self.rng(i).integers(2**31)))
            trial = study.ask()
            params = self._ask(trial)
            frozen = storage.get_trial(trial._trial_id)
            attrs = {key: v for key, v in frozen.system_attrs.items() if self.keeps(key)}
            out.append(Proposal(params, {ATTRS: attrs} if attrs else {}))
        return out

    def keeps(self, key: str) -> bool:
        """Whether a system attribute is the sampler's memory; others can be derived again."""
        return True

    def _ask(self, trial: Trial) -> dict[str, Any]:
        """One suggestion, parents before children, only what is active."""

        def choose(name: str, p: Searched, _chosen: Mapping[str, Any]) -> Scalar:
            if isinstance(p, Categorical):
                return trial.suggest_categorical(name, p.choices)
            if isinstance(p, Float):
                return trial.suggest_float(name, p.low, p.high, step=p.step, log=p.log)
            return trial.suggest_int(name, p.low, p.high, step=p.step, log=p.log)

        return self.space.chosen(choose)

    def _trials(self, history: History) -> list[FrozenTrial]:
        status = history.standing
        rows = np.flatnonzero(status != VOID)[-self.most_trials :]
        seen = history.values[rows]
        single = self.objectives == 1
        if single:
            seen = np.where(status[rows, None] == PARTIAL, history.last[rows, None], seen)
        worst = np.nanmax(seen, axis=0, initial=-np.inf)
        dists = self.space.distributions()
        out = []
        seen[status[rows] == DIVERGED] = worst
        for row, values in zip(rows.tolist(), seen, strict=True):
            kind = status[row]
            known = kind in (COMPLETE, DIVERGED) or (single and kind == PARTIAL)
            if known and not np.isfinite(values).all():
                continue
            if not known and kind != PENDING:
                continue
            unit = history.unit[row]
            out.append(self._frozen(history, row, unit, values.tolist() if known else None, dists))
        for unit in history.offered.values():
            out.append(self._frozen(history, -1, unit, None, dists))
        return out

    def _frozen(
        self,
        history: History,
        row: int,
        unit: np.ndarray[Any, np.dtype[np.float64]],
        values: list[float] | None,
        dists: dict[str, BaseDistribution],
    ) -> FrozenTrial:
        params = self.space.from_unit(np.nan_to_num(unit, nan=0.5))
        note = history.notes.get(row, {}).get("sampler", {})
        attrs = note.get(ATTRS, {}) if isinstance(note, dict) else {}
        broken = history.violation[row] if row >= 0 else np.nan
        return create_trial(
            state=TrialState.COMPLETE if values else TrialState.RUNNING,
            values=values,
            params=params,
            distributions={n: dists[n] for n in params},
            system_attrs=dict(attrs),
            constraints={"constraint": float(broken)} if values and np.isfinite(broken) else None,
        )
