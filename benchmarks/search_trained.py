"""Real studies for ``search_quality.py``: each suggestion is trained by the package's engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from search_courses import Course, Loss
from sklearn.datasets import load_diabetes

from tuner import tasks
from tuner.spaces import Space
from tuner.spec import StudySpec, resolve
from tuner.tasks import Task
from tuner.training.population import Population
from tuner.training.source import TrainingData

REAL: dict[str, dict[str, Any]] = {
    "digits, adamw": {
        "task": "digits",
        "space": {
            "optimizer": "adamw",
            "lr": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
            "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
            "beta1": {"type": "float", "low": 0.8, "high": 0.99},
            "beta2": {"type": "float", "low": 0.9, "high": 0.9999},
            "eps": {"type": "float", "low": 1e-10, "high": 1e-4, "log": True},
            "weight_decay": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
        },
    },
    "digits, sgd or adamw, schedules": {
        "task": "digits",
        "space": {
            "optimizer": {"type": "categorical", "choices": ["sgd", "adamw"]},
            "lr": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
            "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
            "momentum": {
                "type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": "sgd"},
            },
            "beta1": {
                "type": "float", "low": 0.8, "high": 0.99, "when": {"optimizer": "adamw"},
            },
            "schedule": {
                "type": "categorical", "choices": ["constant", "cosine", "linear", "wsd"],
            },
            "warmup_fraction": {"type": "float", "low": 0.0, "high": 0.3},
            "weight_decay": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
        },
    },
    "diabetes, 265 rows, noisy": {
        "task": "tabular",
        "space": {
            "optimizer": "adamw",
            "lr": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
            "batch_size": {"type": "categorical", "choices": [8, 16, 32, 64]},
            "beta1": {"type": "float", "low": 0.8, "high": 0.99},
            "weight_decay": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
            "dropout": {"type": "float", "low": 0.0, "high": 0.6},
        },
    },
}  # fmt: skip
"""Study files of tasks that train in a few seconds on a core."""
EPOCHS = 20


class Trained:
    """A study that is trained as by one worker with one slot; its score is the loss.

    Args:
        name: Of ``REAL``.
        seed: Of every trial's initialisation, and of the order of the data.
    """

    max_step = EPOCHS
    marks = (100, 200, 400)

    def __init__(self, name: str, seed: int) -> None:
        torch.set_num_threads(1)
        self.name = name
        self.seed = seed
        self._space: dict[str, Any] = REAL[name]["space"]
        self._plain = self.space(False)

    @cached_property
    def _task(self) -> Task:
        task: str = REAL[self.name]["task"]
        if task != "tabular":
            return tasks.get(task)()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "diabetes.csv"
            load_diabetes(as_frame=True).frame.to_csv(path, index=False)
            table = tasks.get(task)(path=str(path), target="target")
            table.data()  # reads it once and for all
        return table

    @cached_property
    def _data(self) -> TrainingData:
        return TrainingData(self._task, torch.device("cpu"), torch.float32)

    def space(self, priors: bool, misled: float = 1.0) -> Space:
        """That of the study file, with the priors that the optimizers declare."""
        raw = dict(self._space)
        for name, p in raw.items():
            if isinstance(p, dict) and p["type"] == "float" and not priors:
                raw[name] = p | {"prior": "none"}
        if misled != 1.0:
            center = max(1e-3 * misled, raw["lr"]["low"])
            raw["lr"] = raw["lr"] | {"prior": {"center": center, "spread": 1.0}}
        # The names of a task are those of any other: digits stands for the table too.
        spec = {"name": "real", "task": {"name": "digits"}, "space": raw}
        return resolve(StudySpec.parse(spec | {"budget": {"epochs": EPOCHS}})).space

    def start(self, params: Mapping[str, Any]) -> Course:
        """A training from scratch."""
        return Course(dict(params), self._losses(params))

    def _losses(self, params: Mapping[str, Any]) -> Iterator[Loss]:
        config = self._plain.fill(params)
        population = Population(
            self._task, config, 1, engine="looped", data=self._data, check=False, compiling=False
        )
        population.load(0, config, self.seed, epochs=EPOCHS, data_seed=self.seed)
        for _ in range(EPOCHS):
            population.train(len(self._data.train))
            loss = population.evaluate()[0]["val_loss"]
            yield Loss(loss, loss)

    def score(self, loss: float) -> float:
        """The loss itself."""
        return loss
