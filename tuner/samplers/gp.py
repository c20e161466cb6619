"""Gaussian-process Bayesian optimisation: Optuna's ``GPSampler``.

Worth its time (it grows with the cube of the trials) where a trial is dear and there are few.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import ClassVar

import optuna
from optuna.samplers import BaseSampler, GPSampler

from tuner.samplers import register
from tuner.samplers.bridge import OptunaSampler
from tuner.spaces import Option


@register("gp")
class GaussianProcessSampler(OptunaSampler):
    """Matern kernel, expected improvement, its own hyperparameter fit for every suggestion."""

    summary = "Gaussian process with expected improvement; for few, dear trials."
    most_trials = 500
    options: ClassVar[Mapping[str, Option]] = {
        "n_startup_trials": Option(
            10, "int", low=1, high=100_000, doc="Random draws before the first model."
        ),
        "deterministic": Option(
            False, "bool", doc="Whether the same configuration always gives the same value."
        ),
    }

    def make(self, seed: int) -> BaseSampler:
        """Optuna's."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return GPSampler(
                seed=seed,
                n_startup_trials=self.settings["n_startup_trials"],
                deterministic_objective=self.settings["deterministic"],
                warn_independent_sampling=False,
            )

    def keeps(self, key: str) -> bool:
        """It writes its suggestion down for other processes; ours is on the trial already."""
        return False
