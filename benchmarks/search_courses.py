"""What ``search_quality.py`` searches, and recorded learning curves as such a problem.

A problem answers a configuration with its learning curve, one epoch at a time. A course that nobody
asks for its next epoch stands still, as a trial does that is set aside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tuner.spaces import Prior, Space


class Loss(NamedTuple):
    """A loss as the searcher sees it, and as it is in truth."""

    shown: float
    true: float


@dataclass(frozen=True)
class Course:
    """One trial: what was tried in truth, and the loss after each of its epochs."""

    params: Mapping[str, Any]
    losses: Iterator[Loss]


class Problem(Protocol):
    """A search problem of one run; it remembers what was tried.

    Attributes:
        name: For the table.
        max_step: Epochs of a full training.
        marks: Epochs at which a run is judged.
    """

    name: str
    max_step: int
    marks: tuple[int, ...]

    def space(self, priors: bool, misled: float = 1.0) -> Space:
        """What is searched; ``misled`` times the learning rate's prior centre."""

    def start(self, params: Mapping[str, Any]) -> Course:
        """Answers a suggestion."""

    def score(self, loss: float) -> float:
        """How good a run is whose lowest loss this is; lower is better."""


COMPLEMENT = ("beta1", "beta2")
PRIORS = {
    "learning_rate": Prior(1e-3, 1.0, "log"),
    "beta1": Prior(0.1, 0.7, "log"),
    "beta2": Prior(3e-3, 1.0, "log"),
    "epsilon": Prior(1e-8, 2.0, "log"),
    "l1": Prior(1e-6, 1.5, "log"),
    "l2": Prior(1e-6, 1.5, "log"),
}
"""Of Adam, as in tuner.optimizers; decay rates as their distance from 1."""


@dataclass
class Table:
    """Recorded runs: a suggestion is answered with the nearest one that was not tried yet.

    Nearest is Euclidean in the logs. The score is the regret: 0 is the best known configuration, 1
    is chance. ``noise``, in the same unit, is added to each loss that is shown.
    """

    name: str
    names: tuple[str, ...]
    points: np.ndarray  # [n, D], positive
    curves: np.ndarray  # [n, T]
    chance: float
    best: float
    marks: tuple[int, ...] = (200, 500, 1000)
    noise: float = 0.0
    seed: int = 0
    free: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.max_step = self.curves.shape[1]
        self.free = np.ones(len(self.points), dtype=bool)

    @classmethod
    def load(cls, path: Path, noise: float = 0.0, seed: int = 0) -> Table:
        """Reads one file; decay rates become their distance from 1."""
        with np.load(path) as data:
            names = tuple(str(n) for n in data["hp_names"])
            hp = data["hp"].astype(float)
            curves = data["valid"].astype(float)
        for j, name in enumerate(names):
            if name in COMPLEMENT:
                hp[:, j] = np.maximum(1.0 - hp[:, j], 1e-7)
        return cls(
            path.stem,
            names,
            hp,
            curves[:, 1:],
            math.log(2),
            float(np.nanmin(curves[:, 1:])),
            noise=noise,
            seed=seed,
        )

    def space(self, priors: bool, misled: float = 1.0) -> Space:
        """The ranges of the table."""
        raw: dict[str, Any] = {}
        for j, name in enumerate(self.names):
            low, high = self.points[:, j].min(), self.points[:, j].max()
            raw[name] = {"type": "float", "low": float(low), "high": float(high), "log": True}
            if priors and name in PRIORS:
                p = PRIORS[name]
                shift = misled if name == "learning_rate" else 1.0
                center = min(max(p.center * shift, low), high)
                raw[name]["prior"] = {"center": center, "spread": p.spread}
        return Space.parse(raw)

    def start(self, params: Mapping[str, Any]) -> Course:
        """The nearest row that is free."""
        logs = np.log(self.points)
        at = np.log([params[n] for n in self.names])
        width = logs.max(0) - logs.min(0)
        far = (((logs - at) / width) ** 2).sum(1)
        row = int(np.argmin(np.where(self.free, far, np.inf)))
        self.free[row] = False
        tried = {n: float(v) for n, v in zip(self.names, self.points[row], strict=True)}
        true = self.curves[row]
        noise = np.random.default_rng([self.seed, row]).normal(size=len(true))
        shown = true + self.noise * (self.chance - self.best) * noise
        return Course(tried, map(Loss, shown.tolist(), true.tolist()))

    def score(self, loss: float) -> float:
        """The regret, capped at 1."""
        return min((loss - self.best) / (self.chance - self.best), 1.0)

    def floor(self, workers: int) -> list[float]:
        """The score at each mark of one who tried every row: rounds bound how far any trial is."""
        rounds = [min(-(-mark // workers), self.max_step) for mark in self.marks]
        return [self.score(float(np.nanmin(self.curves[:, :n]))) for n in rounds]
