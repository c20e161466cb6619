"""Who ``search_quality.py`` compares: our searches, and Optuna's samplers with its pruners."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from search_courses import Course, Problem

from tuner.search import Budget, Objective, Record, Search
from tuner.spaces import Space

LATE = 0.8
"""Decisions after this share of the epochs are those whose cost counts."""


class Meter:
    """The lowest loss after each epoch spent, and what decisions took."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.epochs = problem.marks[-1]
        self.seen: list[float] = []
        self.seconds: list[float] = []

    @property
    def full(self) -> bool:
        """Whether all epochs are spent."""
        return len(self.seen) >= self.epochs

    def spend(self, value: float) -> None:
        """One epoch and the loss after it."""
        best = self.seen[-1] if self.seen else math.inf
        self.seen.append(min(best, value) if math.isfinite(value) else best)

    def decided(self, seconds: float) -> None:
        """Processor time of one decision."""
        if len(self.seen) >= LATE * self.epochs:
            self.seconds.append(seconds)

    def scores(self) -> list[float]:
        """At each mark."""
        last = self.seen[-1] if self.seen else math.inf
        filled = self.seen + [last] * (self.epochs - len(self.seen))
        return [self.problem.score(filled[mark - 1]) for mark in self.problem.marks]


class Replay:
    """One run of our search, ``workers`` in lockstep; records are kept as a service would."""

    def __init__(self, problem: Problem, search: Search, meter: Meter, workers: int) -> None:
        self.problem, self.search, self.meter, self.workers = problem, search, meter, workers
        self.records: dict[int, Record] = {}
        self.courses: dict[int, Course] = {}
        self.slots: list[int] = []

    def run(self) -> None:
        """To the last epoch."""
        while not self.meter.full:
            self.lease()
            if not self.slots:
                break
            # As in a round: all workers have reported before anything is decided.
            for number in self.slots:
                self.step(number)
            for number in list(self.slots):
                self.judge(number)

    def lease(self) -> None:
        """Fills the free slots; the model is fitted beforehand, as a background thread would."""
        wanted = self.workers - len(self.slots)
        if not wanted:
            return
        if self.search.stale:
            self.search.refit()
        start = time.process_time()
        suggestions = self.search.suggest(wanted)
        self.meter.decided((time.process_time() - start) / max(len(suggestions), 1))
        for s in suggestions:
            number = len(self.records) if s.number is None else s.number
            if s.number is None:
                course = self.courses[number] = self.problem.start(s.params)
                self.records[number] = Record(number, course.params, note=s.note)
            self.change(number, state="running", busy=True, paused=False, until=s.until)
            self.slots.append(number)
        self.search.sync(self.records[n] for n in self.slots)

    def change(self, number: int, **changes: Any) -> None:
        """Writes a record."""
        self.records[number] = replace(self.records[number], **changes)

    def step(self, number: int) -> None:
        """One epoch of one trial."""
        curve = self.records[number].curve
        step = max(curve, default=0) + 1
        value, true = next(self.courses[number].losses)
        self.meter.spend(true)
        self.search.report(number, step, value)
        if math.isfinite(value):
            self.change(number, curve={**curve, step: value})

    def judge(self, number: int) -> None:
        """What becomes of one trial after its epoch."""
        verdict = self.search.decide(number)
        self.change(number, until=verdict.until)
        if verdict.action == "continue":
            return
        self.slots.remove(number)
        if verdict.action == "pause":
            self.change(number, paused=True, busy=False)
            return
        state: Any = "complete" if verdict.action == "finish" else "pruned"
        state = "fail" if verdict.reason == "diverged" else state
        curve = self.records[number].curve
        values = (min(curve.values()),) if state == "complete" else None
        self.search.finish(number, state, values, verdict.reason)
        self.change(number, state=state, values=values, reason=verdict.reason, busy=False)


def ours(
    problem: Problem,
    seed: int,
    workers: int,
    sampler: dict[str, Any],
    pruner: dict[str, Any],
    priors: bool,
    misled: float = 1.0,
) -> Meter:
    """One run of our search."""
    meter = Meter(problem)
    search = Search(
        problem.space(priors, misled),
        sampler,
        pruner,
        [Objective("loss")],
        max_step=problem.max_step,
        budget=Budget(total_epochs=meter.epochs),
        seed=seed,
    )
    Replay(problem, search, meter, workers).run()
    return meter


# --- Optuna -------------------------------------------------------------------------------------


def optunas(
    problem: Problem,
    seed: int,
    workers: int,
    make_sampler: Callable[[int], optuna.samplers.BaseSampler],
    make_pruner: Callable[[int], optuna.pruners.BasePruner],
) -> Meter:
    """One run of an Optuna pairing, ``workers`` in lockstep."""
    study = optuna.create_study(sampler=make_sampler(seed), pruner=make_pruner(problem.max_step))
    meter = Meter(problem)
    space = problem.space(False)
    slots: list[Generator[None]] = []
    while not meter.full:
        slots += [optuna_trial(study, problem, space, meter) for _ in range(workers - len(slots))]
        slots = [slot for slot in slots if next(slot, slot) is None]
    return meter


def optuna_trial(
    study: optuna.Study, problem: Problem, space: Space, meter: Meter
) -> Generator[None]:
    """One trial, which stands still after each of its epochs but the last."""
    start = time.process_time()
    trial = study.ask()
    course = problem.start(suggested(trial, space))
    meter.decided(time.process_time() - start)
    dists = space.distributions()
    for name, value in course.params.items():  # told what was tried, as ours is
        tell_param(study, trial, name, value, dists[name])
    best, state = math.inf, TrialState.COMPLETE
    for step, (value, true) in enumerate(course.losses, 1):
        meter.spend(true)
        if not math.isfinite(value):
            # As pruned, so that its sampler learns from it.
            state = TrialState.PRUNED if math.isfinite(best) else TrialState.FAIL
            break
        best = min(best, value)
        trial.report(value, step)
        if step == problem.max_step:
            break
        if trial.should_prune():
            state = TrialState.PRUNED
            break
        yield
    study.tell(trial, best if state == TrialState.COMPLETE else None, state=state)


def suggested(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """A point of the space, condition after condition."""
    distributions = space.distributions()
    return space.chosen(lambda name, _parameter, _chosen: trial._suggest(name, distributions[name]))


def tell_param(
    study: optuna.Study, trial: optuna.Trial, name: str, value: Any, dist: BaseDistribution
) -> None:
    """Puts what was tried in the place of what was suggested."""
    study._storage.set_trial_param(trial._trial_id, name, dist.to_internal_repr(value), dist)


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def gp(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed)


def random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def halving(_limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


def hyperband(limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.HyperbandPruner(1, limit, 3)


def median(_limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner()


def percentile(_limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.PercentilePruner(25.0)


def wilcoxon(_limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.WilcoxonPruner()


def nop(_limit: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.NopPruner()


@dataclass(frozen=True)
class Contender:
    """One row."""

    run: Callable[..., Meter]
    how: tuple[Any, ...]


AUTO = ({"name": "auto"}, {"name": "auto"})
CONTENDERS: dict[str, Contender] = {
    "auto + auto, priors": Contender(ours, (*AUTO, True)),
    "auto + auto": Contender(ours, (*AUTO, False)),
    "auto + auto, prior lr 100x low": Contender(ours, (*AUTO, True, 0.01)),
    "auto + asha, priors": Contender(ours, ({"name": "auto"}, {"name": "asha"}, True)),
    "tpe + asha": Contender(ours, ({"name": "tpe"}, {"name": "asha"}, False)),
    "random + asha": Contender(ours, ({"name": "random"}, {"name": "asha"}, False)),
    "Optuna random + halving": Contender(optunas, (random, halving)),
    "Optuna TPE": Contender(optunas, (tpe, nop)),
    "Optuna TPE + halving": Contender(optunas, (tpe, halving)),
    "Optuna TPE + hyperband": Contender(optunas, (tpe, hyperband)),
    "Optuna TPE + median": Contender(optunas, (tpe, median)),
    "Optuna TPE + percentile": Contender(optunas, (tpe, percentile)),
    "Optuna TPE + wilcoxon": Contender(optunas, (tpe, wilcoxon)),
    "Optuna GP": Contender(optunas, (gp, nop)),
    "Optuna GP + halving": Contender(optunas, (gp, halving)),
    "Optuna GP + median": Contender(optunas, (gp, median)),
}
QUICK = ("auto + auto, priors", "auto + auto", "random + asha", "Optuna TPE + halving")
