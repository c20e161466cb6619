"""The default sampler: priors first, then a model of all learning curves.

Half of the new trials are draws, informed by what is known of good values; the other half are
chosen by a Gaussian process over configurations and steps (:mod:`tuner.samplers.surrogate`) as the
points with the highest expected improvement at the end of training. Its hyperparameters are those
of the last fit, the prior's mean before the first. Together with the pruner ``auto`` the same model
also decides which paused trials go on (:mod:`tuner.search.race`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tuner.samplers import COMPLETE, DIVERGED, PENDING, VOID, History, Proposal, Sampler, register
from tuner.samplers.history import Floats
from tuner.samplers.priors import Encoder, at, has_priors, many, snap, sobol
from tuner.samplers.surrogate import (
    Ints,
    Kernel,
    Posterior,
    Rows,
    fit,
    log_expected_improvement,
    normal_scores,
)
from tuner.spaces import Option, Space

CONDITIONED = 300
"""Rows that a decision takes into account; more cost time and teach little."""
GROWTH = 1.3
"""Rows grow by so much before the kernel is fitted again."""


@dataclass(frozen=True)
class _Known:
    """A posterior, and what it was made of."""

    version: int
    kernel: Kernel
    offered: tuple[int, ...]
    posterior: Posterior


@register("auto")
class AutoSampler(Sampler):
    """Draws and model, half and half."""

    summary = "The default: informed draws, then a model of all learning curves so far."
    most_objectives = 1
    options: ClassVar[Mapping[str, Option]] = {
        "draws": Option(
            0.5, "float", low=0.0, high=1.0, doc="The share of new trials drawn blindly."
        ),
        "informed": Option(
            0.75, "float", low=0.0, high=1.0, doc="The share of draws that use the priors."
        ),
    }

    def __init__(
        self, settings: Mapping[str, Any], space: Space, objectives: int, seed: int
    ) -> None:
        super().__init__(settings, space, objectives, seed)
        self._encode = Encoder(space)
        self._informed = self.settings["informed"] if has_priors(space) else 0.0
        self._kernel = Kernel.default(self._encode.columns)
        self._fitted = 0
        self._points: dict[int, tuple[tuple[int, int, float], list[tuple[float, float]]]] = {}
        self._known: _Known | None = None

    # --- draws ----------------------------------------------------------------------------------

    def draw(self, index: int) -> dict[str, Any]:
        """The ``index``-th blind draw: the centre of the priors, then quasi-random quantiles."""
        dimensions = len(self.space.searched)
        if index == 0 and self._informed:
            return at(self.space, np.full(dimensions, 0.5), informed=True)
        informed = self.rng(index).random() < self._informed
        return at(self.space, sobol(dimensions, index, self.seed), informed=bool(informed))

    def blind(self, index: int) -> bool:
        """Whether the ``index``-th new trial is one of the share that no model chooses."""
        return bool(self.rng(index).random(2)[1] < self.settings["draws"])

    def suggest(self, history: History, k: int, draw: int) -> list[Proposal]:
        """``k`` points, each told what was chosen before it."""
        out: list[Proposal] = []
        mine: list[int] = []
        for i in range(draw, draw + k):
            params = None
            if not self.blind(i):
                posterior = self.posterior(history)
                if posterior is not None:
                    unit, _ = self.best_new(history, posterior, i)
                    params = self.space.from_unit(unit)
            if params is None:
                params = self.draw(i)
            out.append(Proposal(params))
            if i not in history.offered:
                history.offered[i] = self.space.to_unit(params)
                mine.append(i)
        for i in mine:
            del history.offered[i]
        return out

    # --- the model ------------------------------------------------------------------------------

    @property
    def enough(self) -> int:
        """Rows below which a model is not worth asking."""
        return max(8, len(self.space.searched) + 2)

    def rows(self, history: History) -> tuple[Ints, Floats, Floats]:
        """Trial, progress and value of points on each curve: doubling steps, and the last."""
        trials: list[int] = []
        s: list[float] = []
        values: list[float] = []
        status, step = history.status, history.step
        for number in np.flatnonzero(status != VOID).tolist():
            key = (int(step[number]), int(status[number]), float(history.last[number]))
            cached = self._points.get(number)
            if cached is None or cached[0] != key:
                cached = (key, self._curve(history, number))
                self._points[number] = cached
            for progress, value in cached[1]:
                trials.append(number)
                s.append(progress)
                values.append(value)
        return np.array(trials, dtype=np.int64), np.array(s), np.array(values)

    def _curve(self, history: History, number: int) -> list[tuple[float, float]]:
        curve = history.curves.get(number, {})
        top = math.log1p(self.max_step)
        out: list[tuple[float, float]] = []
        best, mark = math.inf, max(1, round(self.max_step / 50))
        last = max(curve, default=0)
        for step in sorted(curve):
            best = min(best, curve[step])
            if step >= mark or step == last:
                out.append((math.log1p(step) / top, best))
                while mark <= step:
                    mark *= 2
        status = history.status[number]
        if history.violation[number] > 0:  # however good: not wanted
            return [(progress, math.inf) for progress, _ in out] or [(1.0, math.inf)]
        if status == COMPLETE:
            value = float(history.values[number, 0])
            if out:
                out.pop()
            out.append((1.0, min(value, best)))
        elif status == DIVERGED:
            out.append((math.log1p(min(max(2 * last, 1), self.max_step)) / top, math.inf))
        return out

    def _rows(self, history: History) -> tuple[Rows, Ints] | None:
        """All rows, scored, and which to condition on; None: too few."""
        trial, s, value = self.rows(history)
        if len(trial) < self.enough:
            return None
        rows = Rows(self._encode(history.unit[trial]), s, trial, normal_scores(value))
        if len(trial) <= CONDITIONED:
            return rows, np.arange(len(trial))
        last = np.append(np.flatnonzero(np.diff(trial)), len(trial) - 1)
        rest = np.setdiff1d(np.arange(len(trial)), last)
        last = last[np.argsort(rows.z[last], kind="stable")]
        rest = rest[np.argsort(rows.z[rest], kind="stable")]
        return rows, np.sort(np.concatenate([last, rest])[:CONDITIONED])

    def posterior(self, history: History) -> Posterior | None:
        """What is known, all that is under way believed to end as predicted; None: too little."""
        kernel = self._kernel  # once: a fit in another thread may swap it
        known = self._known
        if known is None or known.version != history.version or known.kernel is not kernel:
            rows = self._rows(history)
            if rows is None:
                return None
            posterior = Posterior(kernel, rows[0].pick(rows[1]))
            busy = np.flatnonzero(history.status == PENDING)
            if busy.size:
                posterior = believing(posterior, self._encode(history.unit[busy]), busy)
            known = _Known(history.version, kernel, (), posterior)
        fresh = [d for d in history.offered if d not in known.offered]
        if fresh:
            units = self._encode(np.array([history.offered[d] for d in fresh]))
            posterior = believing(known.posterior, units, -1 - np.array(fresh))
            known = replace(known, offered=(*known.offered, *fresh), posterior=posterior)
        self._known = known
        return known.posterior

    def gain(self, posterior: Posterior, units: Floats, trial: Ints) -> Floats:
        """Log of the expected improvement, at the end of training, over the best value seen."""
        mean, sigma = posterior.predict(self._encode(units), np.ones(len(units)), trial)
        return log_expected_improvement(mean, sigma, float(posterior.rows.z.min()))

    def best_new(self, history: History, posterior: Posterior, draw: int) -> tuple[Floats, float]:
        """A new point with the highest gain found, and its gain.

        Draws and neighbours of the best trials, then twice the neighbours of the best candidates.
        """
        rng = np.random.default_rng([self.seed, draw, 5])
        dimensions = len(self.space.searched)
        blind = many(self.space, rng.random((100, dimensions)), rng.random(100) < self._informed)
        order = np.argsort(posterior.rows.z, kind="stable")
        best = [t for t in dict.fromkeys(posterior.rows.trial[order].tolist()) if t >= 0][:5]
        near = self._neighbours(rng, history.unit[best], 100 // max(len(best), 1), 0.1)
        units = np.vstack([blind, near])
        gain = self.gain(posterior, units, new_trials(len(units)))
        for spread in (0.05, 0.02):
            top = units[np.argsort(-gain, kind="stable")[:5]]
            more = self._neighbours(rng, top, 20, spread)
            units = np.vstack([units, more])
            gain = np.append(gain, self.gain(posterior, more, new_trials(len(more))))
        for i in np.argsort(-gain, kind="stable")[:20]:
            if self.space.key(self.space.from_unit(units[i])) not in history.taken:
                return units[i], float(gain[i])
        i = int(np.argmax(gain))
        return units[i], float(gain[i])

    def _neighbours(
        self, rng: np.random.Generator, units: Floats, each: int, spread: float
    ) -> Floats:
        """``each`` points around every row: some coordinates moved, some choices made anew."""
        around = np.repeat(np.nan_to_num(units, nan=0.5), each, axis=0)
        n, dimensions = around.shape
        moved = rng.random((n, dimensions)) < 0.5
        if dimensions:
            moved[np.arange(n), rng.integers(dimensions, size=n)] = True
        step = rng.normal(scale=spread, size=(n, dimensions))
        anew = rng.random((n, dimensions))
        choice = np.isin(np.arange(dimensions), self._choices)
        # a choice has no neighbours: it is made anew, but seldom, or nothing near would be tried
        seldom = rng.random((n, dimensions)) < 0.3
        jump = np.where(choice, np.where(seldom, anew, around), around + step)
        return snap(self.space, np.where(moved, np.clip(jump, 0.0, 1.0), around))

    @property
    def _choices(self) -> list[int]:
        counts = np.bincount(self._encode.columns, minlength=len(self.space.searched))
        return np.flatnonzero(counts > 1).tolist()

    # --- fitting --------------------------------------------------------------------------------

    def stale(self, history: History) -> bool:
        """Whether there are 30 % more rows than at the last fit."""
        count = len(self.rows(history)[0])
        return count >= self.enough and count > GROWTH * self._fitted

    def refit(self, history: History) -> Callable[[], None]:
        """Prepares a fit of the kernel to the rows as they are now."""
        known = self._rows(history)
        if known is None:
            return lambda: None
        rows = known[0]

        def work() -> None:
            self._kernel = fit(rows, self._encode.columns, self.seed)
            self._fitted = len(rows.z)

        return work


def believing(posterior: Posterior, x: Floats, trial: Ints) -> Posterior:
    """The posterior once these trials are believed to end as predicted."""
    return posterior.believing(x, np.ones(len(x)), trial)


def new_trials(n: int) -> Ints:
    """Trial numbers that no row has, each different."""
    return -1_000_000_000 - np.arange(n, dtype=np.int64)
