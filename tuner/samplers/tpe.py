"""Tree-structured Parzen estimator: multivariate, grouped by condition, with a constant liar.

Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011; Falkner et al., "BOHB", 2018,
for the multivariate form; Watanabe, "Tree-Structured Parzen Estimator", 2023,
https://arxiv.org/abs/2304.11127, for what each part does. Settings and estimator are those of
Optuna 5's ``TPESampler(multivariate=True, group=True, constant_liar=True)``, with which the tests
compare it.

It is written here and not wrapped because of time: Optuna refits and evaluates ``m * n * D``
truncated normals for every suggestion, 70 ms at 10,000 trials. Here a batch shares one fit, and the
densities are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tuner.samplers import PENDING, VOID, History, Proposal, Sampler, register, untaken
from tuner.samplers.history import Floats
from tuner.samplers.parzen import Axis, Parzen, recency
from tuner.spaces import Option, Space


@register("tpe")
class TpeSampler(Sampler):
    """Draws from the density of the good points, keeps the draw that is likeliest good."""

    summary = "Tree-structured Parzen estimator, for any space; narrows down early in long studies."
    options: ClassVar[Mapping[str, Option]] = {
        "n_startup_trials": Option(
            10, "int", low=1, high=100_000, doc="Random draws before the first model."
        ),
        "n_ei_candidates": Option(
            24, "int", low=1, high=10_000, doc="Draws among which each suggestion is the best."
        ),
    }

    def __init__(
        self, settings: Mapping[str, Any], space: Space, objectives: int, seed: int
    ) -> None:
        super().__init__(settings, space, objectives, seed)
        self._axes = [Axis.of(space.parameter(n)) for n in space.searched]
        self._groups = condition_groups(space)

    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """One fit a condition group; each suggestion counts as bad when the next is chosen."""
        order = history.order()
        if len(order) < self.settings["n_startup_trials"]:
            return [Proposal(untaken(history, self.rng(draw + i))) for i in range(k)]
        many = self.objectives > 1
        good_count = math.ceil(0.1 * len(order)) if many else min(math.ceil(0.1 * len(order)), 25)
        good = np.sort(order[:good_count])
        bad = np.sort(
            np.concatenate([order[good_count:], np.flatnonzero(history.standing == PENDING)])
        )
        fits = [_Group(self, history, axes, good, bad, many) for axes in self._groups]
        for unit in history.offered.values():
            for fit in fits:
                fit.lie(unit)
        out = []
        taken = set(history.taken)
        for i in range(k):
            params = self._one(fits, self.rng(draw + i), taken)
            if params is None:
                params = untaken(history, self.rng(draw + i))
            taken.add(self.space.key(params))
            unit = self.space.to_unit(params)
            for fit in fits:
                fit.lie(unit)
            out.append(Proposal(params))
        return out

    def _one(
        self, fits: list[_Group], rng: np.random.Generator, taken: set[Any]
    ) -> dict[str, Any] | None:
        """The best candidate that is new; None: every candidate was tried before."""
        unit = np.full(len(self.space.searched), 0.5)
        ranked: list[tuple[_Group, Floats]] = []
        for fit in fits:
            params = self.space.from_unit(unit)
            if self.space.searched[fit.columns[0]] not in params:
                continue  # its condition does not hold for what was chosen above
            candidates = fit.ranked(rng, self.settings["n_ei_candidates"])
            unit[fit.columns] = candidates[0]
            ranked.append((fit, candidates))
        params = self.space.from_unit(unit)
        if self.space.key(params) not in taken:
            return params
        for fit, candidates in reversed(ranked):
            for row in candidates[1:]:
                other = unit.copy()
                other[fit.columns] = row
                params = self.space.from_unit(other)
                if self.space.key(params) not in taken:
                    return params
        return None


class _Group:
    """The two densities of the parameters that share one condition."""

    def __init__(
        self,
        sampler: TpeSampler,
        history: History,
        columns: list[int],
        good: np.ndarray[Any, np.dtype[np.int64]],
        bad: np.ndarray[Any, np.dtype[np.int64]],
        flat: bool,
    ) -> None:
        self.columns = columns
        axes = [sampler._axes[j] for j in columns]
        rows = history.unit[:, columns]
        active = ~np.isnan(rows[:, 0]) & (history.status != VOID)
        above = rows[good[active[good]]]
        below = rows[bad[active[bad]]]
        weights = np.ones(len(above)) if flat else recency(len(above))
        self.good = Parzen(axes, above, weights)
        self.bad = Parzen(axes, below, recency(len(below)))
        self._weight = 1.0 / (recency(len(below)).sum() + 1.0)
        self._lies: list[Parzen] = []

    def lie(self, unit: Floats) -> None:
        """Counts a point, whose result nobody knows yet, among the bad."""
        point = unit[self.columns]
        if not np.isnan(point).any():
            self._lies.append(self.bad.kernel(point))

    def ranked(self, rng: np.random.Generator, m: int) -> Floats:
        """``[m, D]`` draws from the good density, the highest ratio first."""
        points = self.good.sample(rng, m)
        features = self.good.features(points)
        bad = self.bad.log_density(features)
        for kernel in self._lies:
            bad = np.logaddexp(bad, kernel.log_density(features) + math.log(self._weight))
        score = self.good.log_density(features) - bad
        return points[np.argsort(-score, kind="stable")]


def condition_groups(space: Space) -> list[list[int]]:
    """Columns of the cube that are active together, parents first.

    Parameters belong together when the conditions on them, and on the parents of those, are the
    same.
    """
    closures: dict[tuple[Any, ...], list[int]] = {}
    for j, name in enumerate(space.searched):
        conditions: set[tuple[Any, ...]] = set()
        frontier = [name]
        while frontier:
            for parent, wanted in space.parameters[frontier.pop()].when.items():
                conditions.add((parent, *map(repr, wanted)))
                frontier.append(parent)
        closures.setdefault(tuple(sorted(conditions)), []).append(j)
    return list(closures.values())
