"""NSGA-II, an evolutionary search for several objectives: Optuna's ``NSGAIISampler``.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from optuna.samplers import BaseSampler, NSGAIISampler

from tuner.samplers import register
from tuner.samplers.bridge import OptunaSampler
from tuner.spaces import Option


@register("nsga2")
class Nsga2Sampler(OptunaSampler):
    """Uniform crossover between the parents that rank best by front and crowding."""

    summary = "An evolutionary search for the front of several objectives."
    options: ClassVar[Mapping[str, Option]] = {
        "population_size": Option(
            20, "int", low=2, high=10_000, doc="Complete trials that make one generation."
        ),
        "crossover_probability": Option(
            0.9, "float", low=0.0, high=1.0, doc="How often a child has two parents."
        ),
        "mutation_probability": Option(
            None,
            "float",
            low=0.0,
            high=1.0,
            doc="How often a parameter is drawn anew; by default 1 / their number.",
        ),
    }

    def make(self, seed: int) -> BaseSampler:
        """Optuna's."""
        return NSGAIISampler(
            seed=seed,
            population_size=self.settings["population_size"],
            crossover_prob=self.settings["crossover_probability"],
            mutation_prob=self.settings["mutation_probability"],
        )
