"""A stand-in for service and workers: keeps records, trains by formula, asks the search."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tuner.search import Budget, Objective, Record, Search, Suggestion
from tuner.spaces import Space

SPACE = Space.parse(
    {
        "optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
        "lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
        "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": "sgd"}},
        "batch_size": {"type": "int", "low": 16, "high": 128, "log": True},
    }
)

NEEDED = {"threshold": {"upper": 100.0, "lower": -100.0}}


def loss(params: dict[str, Any], step: int) -> float:
    """A learning curve: falls with the step, towards a floor that the params set."""
    far = abs(math.log10(params["lr"]) + 2) + 0.3 * params.get("momentum", 0.5)
    if params["lr"] > 0.5:
        return math.nan if step > 1 else 3.0
    return far + math.exp(-step / 4) * (1 + 0.01 * params["batch_size"])


class Simulation:
    """``k`` workers in lockstep; every change of a trial is written down as it happens."""

    def __init__(
        self,
        sampler: dict[str, Any],
        pruner: dict[str, Any],
        budget: Budget,
        *,
        max_step: int = 8,
        space: Space = SPACE,
        seed: int = 0,
        direction: str = "minimize",
        curve: Callable[[dict[str, Any], int], float] = loss,
        objectives: int = 1,
    ) -> None:
        settings = {**NEEDED.get(pruner.get("name", ""), {}), **pruner}
        self.make = lambda: Search(
            space,
            sampler,
            settings,
            [Objective(f"m{i}", direction) for i in range(objectives)],  # type: ignore[arg-type]
            max_step=max_step,
            budget=budget,
            seed=seed,
        )
        self.search = self.make()
        self.refits = False
        self.objectives = objectives
        self.sign = 1.0 if direction == "minimize" else -1.0
        self.curve = curve
        self.space = space
        self.records: dict[int, Record] = {}
        self.slots: list[int] = []
        self.started: list[Suggestion] = []

    def restored(self) -> Search:
        """A fresh search that is told all records."""
        fresh = self.make()
        fresh.sync(self.records.values())
        return fresh

    def change(self, number: int, **changes: Any) -> None:
        self.records[number] = replace(self.records[number], **changes)

    def enqueue(self, params: dict[str, Any]) -> int:
        number = len(self.records)
        self.records[number] = Record(number, params)
        self.search.sync([self.records[number]])
        return number

    def lease(self, k: int, elapsed_seconds: float = 0.0) -> list[Suggestion]:
        if self.refits and self.search.stale:
            self.search.refit()
        self.search.elapse(elapsed_seconds)
        out = self.search.suggest(k)
        for s in out:
            self.started.append(s)
            number = len(self.records) if s.number is None else s.number
            if s.number is None:
                self.records[number] = Record(number, s.params, note=s.note)
            self.change(number, state="running", busy=True, paused=False, until=s.until)
            self.slots.append(number)
        self.search.sync(self.records[n] for n in self.slots)
        return out

    def train(self, number: int) -> str:
        """One step of one trial."""
        record = self.records[number]
        step = max(record.curve, default=record.note.get("start", 0)) + 1
        value = self.sign * self.curve(dict(record.params), step)
        verdict = self.search.observe(number, step, value)
        if math.isfinite(value):
            self.change(number, curve={**record.curve, step: value}, until=verdict.until)
        if verdict.action == "pause":
            self.change(number, paused=True, busy=False)
        elif verdict.action == "stop":
            state = "fail" if verdict.reason == "diverged" else "pruned"
            self.end(number, state, None, verdict.reason)
        elif verdict.action == "finish":
            values = tuple(value + i for i in range(self.objectives))
            self.end(number, "complete", values, verdict.reason)
        if verdict.action != "continue":
            self.slots.remove(number)
        return verdict.action

    def end(self, number: int, state: Any, values: tuple[float, ...] | None, reason: str) -> None:
        self.search.finish(number, state, values, reason)
        self.change(number, state=state, values=values, reason=reason, busy=False, paused=False)

    def run(self, k: int, most_rounds: int = 3000) -> str:
        """To the end; the rounds are bounded so that a study that never ends fails the test."""
        for _ in range(most_rounds):
            if len(self.slots) < k:
                self.lease(k - len(self.slots))
            if not self.slots:
                reason = self.search.exhausted
                assert reason is not None, "nothing to do, yet not exhausted"
                return reason
            for number in list(self.slots):
                self.train(number)
        raise AssertionError("the study does not end")

    @property
    def epochs(self) -> int:
        starts = {n: r.note.get("start", 0) for n, r in self.records.items()}
        return sum(max(r.curve, default=starts[n]) - starts[n] for n, r in self.records.items())

    def shown(self, search: Search, k: int = 3) -> list[Suggestion]:
        """What a search would suggest now. It is spent afterwards."""
        return search.suggest(k)


def random_walk(sim: Simulation, rng: np.random.Generator, moves: int) -> None:
    """Leases, steps, losses and returns in any order, as several workers would make them."""
    for _ in range(moves):
        act = rng.random()
        if act < 0.35:
            sim.lease(int(rng.integers(1, 4)))
        elif act < 0.95 and sim.slots:
            sim.train(sim.slots[int(rng.integers(len(sim.slots)))])
        elif sim.slots:  # the worker vanished: the service takes the trial back
            number = sim.slots.pop(int(rng.integers(len(sim.slots))))
            sim.change(number, busy=False)
            sim.search.sync([sim.records[number]])
