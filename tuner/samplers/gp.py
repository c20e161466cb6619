"""Gaussian-process Bayesian optimisation: Optuna's ``GPSampler``.

Worth its time (it grows with the cube of the trials) where a trial is dear and there are few.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import optuna
from optuna.samplers import BaseSampler, GPSampler

from tuner.errors import InvalidInput
from tuner.samplers import register
from tuner.samplers.bridge import OptunaSampler
from tuner.spaces import Option, Space

MOST_VALUES = 1_000_000
"""Of a parameter in steps: Optuna's search lists them all, many times for every suggestion."""


@register("gp")
class GaussianProcessSampler(OptunaSampler):
    """Matern kernel, expected improvement, its own hyperparameter fit for every suggestion.

    Raises:
        InvalidInput: A parameter has more values than can be listed; names it.
    """

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

    def __init__(
        self, settings: Mapping[str, Any], space: Space, objectives: int, seed: int
    ) -> None:
        super().__init__(settings, space, objectives, seed)
        for name in space.searched:
            size = space.parameter(name).size
            if size is not None and size > MOST_VALUES:
                raise InvalidInput(
                    f"space.{name}",
                    f"has {size:,} values, and gp lists them all, at most {MOST_VALUES:,}: give it "
                    "a longer step, make it a float, or take another sampler",
                )

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
