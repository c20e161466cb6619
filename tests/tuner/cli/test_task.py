"""``tuner task check``: a good task passes, and each way to be wrong is told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from tests.tuner.tasks import zoo
from tuner.cli import main
from tuner.cli.examination import examine
from tuner.tasks import Arrays, Config, Splits, Task


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are measured as ever, and less often."""
    monkeypatch.setattr("tuner.cli.examination.SLOTS", (1, 3))
    monkeypatch.setattr("tuner.cli.examination.TIMED_SAMPLES", 128)
    monkeypatch.setattr("tuner.cli.examination.ROUNDS", 1)


class Good(Task):
    """Eight features, two classes."""

    name = "good"
    extra_metrics = ("accuracy",)

    def data(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64, 8, generator=generator)
        arrays = Arrays(x, (x[:, 0] > 0).long())
        return Splits(train=arrays, valid=arrays)

    def model(self, config: Config) -> nn.Module:
        return nn.Linear(8, 2)

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return nn.functional.cross_entropy(output, target, reduction="none")

    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (output.argmax(-1) == target).float()}


class Changing(Good):
    """Other samples each time."""

    def data(self) -> Splits:
        x = torch.randn(64, 8)
        arrays = Arrays(x, (x[:, 0] > 0).long())
        return Splits(train=arrays, valid=arrays)


class Unnamed(Good):
    """Metrics that are not declared."""

    extra_metrics = ()


class Normed(Good):
    """A model with BatchNorm."""

    def model(self, config: Config) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


class Restless(Good):
    """Samples that a transform draws anew whenever they are looked at."""

    def data(self) -> Splits:
        class Noise(Dataset[tuple[Tensor, Tensor]]):
            def __len__(self) -> int:
                return 64

            def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
                return torch.randn(8), torch.tensor(index % 2)

        return Splits(train=Noise(), valid=Good().data().valid)


class Shrinking(Good):
    """A validation part of another length each time."""

    length = 64

    def data(self) -> Splits:
        self.length -= 8
        arrays = Good().data().train
        assert isinstance(arrays, Arrays)
        short = Arrays(arrays.x[: self.length], arrays.y[: self.length])
        return Splits(train=arrays, valid=short)


class Hollow(Good):
    """Nothing to validate with."""

    def data(self) -> Splits:
        splits = super().data()
        assert isinstance(splits.train, Arrays)
        return Splits(splits.train, Arrays(splits.train.x[:0], splits.train.y[:0]))


class Empty(Good):
    """Nothing to train on."""

    def data(self) -> Splits:
        splits = super().data()
        assert isinstance(splits.train, Arrays)
        return Splits(Arrays(splits.train.x[:0], splits.train.y[:0]), splits.valid)


class Wilful(Good):
    """A model of its own random numbers."""

    def model(self, config: Config) -> nn.Module:
        model = nn.Linear(8, 2)
        nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(next(COUNT)))
        return model


COUNT = count()


class Averaged(Good):
    """A loss that is a mean already."""

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return nn.functional.cross_entropy(output, target)


class Entangled(Good):
    """A loss that compares samples with each other."""

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return super().loss(output - output.mean(0), target, config)


class Endless(Good):
    """A loss that is infinite at first."""

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return super().loss(output, target, config) / 0.0


class Deaf(Good):
    """A loss in which the model has no say."""

    def loss(self, output: Any, target: Tensor, config: Config) -> Tensor:
        return super().loss(output.detach(), target, config)


class Folded(Good):
    """A metric that is a mean already."""

    def metrics(self, output: Any, target: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (output.argmax(-1) == target).float().mean()}


class Missing(Good):
    """Data that are not there."""

    def data(self) -> Splits:
        raise FileNotFoundError("no such file: samples.npz")


class Paired(Good):
    """Data as scikit-learn splits them."""

    def data(self) -> Splits:
        splits = super().data()
        return splits.train, splits.valid  # type: ignore[return-value]  # as people write it


class Numeric(Good):
    """Arrays of numpy."""

    def data(self) -> Splits:
        x, y = np.zeros((4, 8), dtype=np.float32), np.zeros(4, dtype=np.int64)
        return Splits(Arrays(x, y), Arrays(x, y))  # type: ignore[arg-type]  # as people write it


class Told(Good):
    """Several targets a sample."""

    def data(self) -> Splits:
        samples: Any = [(torch.zeros(8), {"side": 0, "size": 1.0})] * 16
        return Splits(samples, samples)


class Named(Good):
    """Samples as Hugging Face's data sets give them."""

    def data(self) -> Splits:
        samples: Any = [{"x": torch.zeros(8), "y": 0}] * 16
        return Splits(samples, samples)


class Streamed(Good):
    """Samples that come one after another."""

    def data(self) -> Splits:
        class Stream(IterableDataset[tuple[Tensor, int]]):
            def __iter__(self) -> Iterator[tuple[Tensor, int]]:
                return iter([(torch.zeros(8), 0)] * 16)

            def __len__(self) -> int:
                return 16

        return Splits(Stream(), Stream())  # type: ignore[arg-type]  # as people write it


class Ragged(Good):
    """Sequences of several lengths."""

    def data(self) -> Splits:
        samples: Any = [(torch.zeros(2 + i % 3), i % 2) for i in range(16)]
        return Splits(samples, samples)


class Mistyped(Good):
    """A model that does not fit the data."""

    def model(self, config: Config) -> nn.Module:
        return nn.Linear(9, 2)


class Branching(Good):
    """A model that looks at values, which vmap cannot."""

    def model(self, config: Config) -> nn.Module:
        class Branch(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(8, 2)

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.inner(x)
                return out * 2 if float(out.detach().sum()) > 1e6 else out

        return Branch()


def test_a_good_task_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.cli.examination.ROUNDS", 8)
    found = examine("good", Good(), "adamw")
    assert found.problems == []
    assert found.engine == "fused where that is faster: fusing gives the same gradients"
    assert found.chosen[1] == "looped, recorded"
    assert found.chosen[3].startswith(("looped, ", "fused x"))
    assert (found.samples, found.parameters) == (64, 18)
    assert found.slot_bytes >= 18 * 16  # weight, gradient and two moments of four bytes
    assert found.sample_bytes >= 8 * 4
    assert list(found.samples_per_second) == [1, 3]
    assert all(speed > 0 for speed in found.samples_per_second.values())


def test_a_task_that_cannot_be_fused_is_told_why() -> None:
    found = examine("branching", Branching(), "sgd")
    assert found.problems == []
    assert found.engine.startswith("looped: ")
    assert len(found.engine) > len("looped: ")
    assert all(form.startswith("looped") for form in found.chosen.values())


@pytest.mark.parametrize(
    ("task", "word"),
    [
        (Changing(), "data() gives other train samples"),
        (Restless(), "train samples change from one look to the next"),
        (Shrinking(), "another number of valid samples"),
        (Hollow(), "data() gives no validation samples"),
        (Empty(), "data() gives no training samples"),
        (Wilful(), "model() is another one each time"),
        (Averaged(), "loss() gives the shape []"),
        (Entangled(), "depends on the others of its batch"),
        (Endless(), "loss() is not finite"),
        (Deaf(), "no parameter of the model has an influence"),
        (Unnamed(), "extra_metrics"),
        (Folded(), "metric accuracy has the shape []"),
        (Missing(), "data() raises FileNotFoundError: no such file: samples.npz"),
        (Paired(), "data() of task good gives a tuple: give Splits("),
        (Numeric(), "x of Arrays is a ndarray: give torch.as_tensor(x)"),
        (Told(), "the target of a sample must be one tensor or number, not a dict"),
        (Folded(), "such as an AUC, a script or a loop of your own can report"),
        (Told(), "put several into one, and take them apart in model or loss"),
        (Streamed(), "the train samples of task good can only be iterated: give Arrays, or"),
        (Ragged(), "samples differ in shape, such as [2] and [4]: pad them to one"),
        (Named(), "a sample of a data set must be a pair, an input and its target"),
        (Mistyped(), "raises RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Task) else "",
)
def test_what_is_wrong_is_told(task: Task, word: str) -> None:
    found = examine("wrong", task, "sgd")
    assert any(word in problem for problem in found.problems), found.problems
    assert found.samples_per_second == {}


@pytest.mark.parametrize("accepted", [False, True])
def test_batch_norm_is_a_caution(accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Normed, "ghost_batch_norm", accepted)
    found = examine("normed", Normed(), "sgd")
    assert found.problems == []
    assert "BatchNorm (1)" in found.cautions[0]
    assert ("is accepted" in found.cautions[0]) == accepted
    assert ("`ghost_batch_norm = True` in the task's class" in found.cautions[0]) != accepted


class _Keeping(nn.Linear):
    def __init__(self, config: Config) -> None:
        super().__init__(8, 2)
        self.rate = config["lr"]


class Keeping(Good):
    """A model that keeps a number of its training, which splits a study's trials."""

    def model(self, config: Config) -> nn.Module:
        return _Keeping(config)


def test_a_batch_that_must_stay_whole_is_a_caution() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)

    class Drawing(Good):
        def model(self, config: Config) -> nn.Module:
            return Noisy(8, 2)

    (caution,) = examine("drawing", Drawing(), "adamw").cautions
    assert caution.startswith("only trials of one batch size train together: ")
    assert not examine("good", Good(), "adamw").cautions


def test_a_number_of_the_training_in_the_model_is_a_caution() -> None:
    found = examine("keeping", Keeping(), "sgd")
    assert found.problems == []
    (caution,) = found.cautions
    assert caution.startswith("model() builds lr into the model (rate is 0.001, not 0.25): ")


@pytest.mark.parametrize("task", zoo.TASKS, ids=lambda task: task.name)
def test_models_that_people_train_have_no_problem(task: type[Task]) -> None:
    """Dropout, BatchNorm, tied weights, recurrence, embeddings, attention, mappings."""
    assert examine(task.name, task(), "adamw").problems == []


BROKEN = {
    "syntax.py": "class Task(:",
    "name.py": "class Task(Unknown): pass",
    "other.py": "Task = 3",
    "nameless.py": "from tuner.tasks.digits import Digits\nclass Task(Digits): name = ''",
    "taken.py": "from tuner.tasks.digits import Digits\nclass Task(Digits): name = 'digits'",
}


@pytest.mark.parametrize("file", BROKEN)
def test_a_module_that_cannot_be_loaded_is_one_line(
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / file).write_text(BROKEN[file])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["task", "check", f"{file.removesuffix('.py')}:Task"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tuner: task: ")
    assert told.count("\n") == 1
