"""What ``tuner task check`` looks at: one task, trained a little, and everything wrong with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from tuner.errors import TunerError
from tuner.tasks import splits_of
from tuner.training import Population, TrainingData, memory
from tuner.training.architecture import (
    TRAINING_NUMBERS,
    build,
    difference,
    loss_config,
    mixing_modules,
    optimizer_names,
    structure,
)
from tuner.training.source import open_source

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tuner.tasks import Samples, Task

SLOTS = (1, 4, 16)
TIMED_SAMPLES = 1024
ROUNDS = 5
"""The best of them counts: in the first ones the engine is still trying its forms."""
SAMPLES = 8
"""Samples looked at one by one."""
CLOSE = 1e-3
"""How far apart the same loss may be, alone and among others, by rounding."""
CPU = torch.device("cpu")


@dataclass
class Examination:
    """What a check found.

    Args:
        task: Its name.
        samples: That it trains on.
        parameters: Of its model.
        slot_bytes: What a slot takes all the time.
        sample_bytes: What each sample of a micro-batch takes beside that.
        engine: Whether it can be fused, or why not.
        samples_per_second: Over all slots, by their number.
        chosen: The form that the engine took by measuring, by the number of slots.
        problems: Trials would fail, or lie.
        cautions: Good to know.
    """

    task: str
    samples: int = 0
    parameters: int = 0
    slot_bytes: int = 0
    sample_bytes: int = 0
    engine: str = ""
    samples_per_second: dict[int, float] = field(default_factory=dict)
    chosen: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)


class Broken(Exception):
    """A part of the task raises, so that what comes after it cannot be looked at."""


def examine(name: str, task: Task, optimizer: str) -> Examination:
    """Checks one task: its data, its model, its loss, its metrics, its engine, its speed."""
    found = Examination(name)
    config = {"optimizer": optimizer, "lr": 1e-3, "batch_size": 32}
    try:
        _examine(found, task, config)
    except Broken as error:
        found.problems.append(str(error))
    return found


def _examine(found: Examination, task: Task, config: dict[str, Any]) -> None:
    with _told("data()"):
        data = TrainingData(task, CPU, torch.float32)
        found.samples = len(data.train)
        found.problems += list(_changing(task))
    with _told("model()"):
        model, again = (build(task, config, 0, torch.float32) for _ in range(2))
        found.parameters = sum(p.numel() for p in model.parameters())
        pairs = zip(model.parameters(), again.parameters(), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            found.problems.append(
                "model() is another one each time: draw from torch's own generator alone, whose "
                "seed the engine sets, or no trial can be repeated"
            )
    with _told("model, loss() or metrics()"):
        found.problems += list(_wrong(task, model, config, data))
    found.cautions += list(_mixing(task, model))
    with _told("model()"):
        found.cautions += list(_apart(task, model, config))
    if found.problems:
        return
    with _told("training"):
        verdict = Population(task, config, 1, data=data).engine.verdict
        reason = verdict.reason
        if verdict.fused:
            reason = "fusing gives the same gradients" + (f"; but {reason}" if reason else "")
        if verdict.whole and not mixing_modules(model):  # of those it has been said
            found.cautions.append(
                "only trials of one batch size train together: parts of a batch do not add up to "
                "the batch where a model draws numbers by itself, counts batches, drops over an "
                "axis 0 that is not the samples, or lets samples meet"
            )
        found.engine = f"{'fused where that is faster' if verdict.fused else 'looped'}: {reason}"
        slot = memory.measure(task, config, device=CPU, data=data)
        found.slot_bytes = round(slot.resident)
        found.sample_bytes = round(slot.peaks.per_sample)
        for slots in SLOTS:
            speed, chosen = _speed(task, config, data, slots)
            found.samples_per_second[slots], found.chosen[slots] = speed, chosen


class _told:  # noqa: N801  (read as a word)
    """Turns whatever a part of a task raises into a sentence about that part."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, Broken):
            what = error.message if isinstance(error, TunerError) else str(error)
            said = (what.splitlines() or [""])[0]
            raise Broken(f"{self.part} raises {type(error).__name__}: {said}") from error


def _changing(task: Task) -> Iterator[str]:
    """Parts of the data that are not the same every time."""
    first, second = splits_of(task), splits_of(task)
    for name in ("train", "valid", "test"):
        one, other = getattr(first, name), getattr(second, name)
        if one is None and other is None:
            continue
        if one is None or other is None or len(one) != len(other):
            yield f"data() has another number of {name} samples each time: fix its seed"
            continue
        seen = [_taken(samples) for samples in (one, one, other)]
        if not _same(seen[0], seen[1]):
            yield (
                f"the {name} samples change from one look to the next: draw what is random once, "
                "with a seed, or no trial can be repeated"
            )
        elif not _same(seen[0], seen[2]):
            yield (
                f"data() gives other {name} samples each time: fix its seed, or no trial can be "
                "repeated"
            )


def _taken(samples: Samples) -> tuple[Tensor, Tensor]:
    index = torch.arange(min(SAMPLES, len(samples)))  # type: ignore[arg-type]  # as data() promises
    return open_source(samples, CPU, torch.float32).take(index)


def _same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _wrong(
    task: Task, model: nn.Module, config: dict[str, Any], data: TrainingData
) -> Iterator[str]:
    """What would make trials fail or lie, in sentences."""
    x, y = data.train.take(torch.arange(min(SAMPLES, len(data.train))))
    given = {**loss_config(config), "label_smoothing": torch.tensor(0.0)}
    model.eval()
    output = model(x)
    loss, measured = task.loss(output, y, given), task.metrics(output, y)
    if loss.shape != (len(x),):
        yield (
            f"loss() gives the shape {list(loss.shape)} for {len(x)} samples: return one "
            "number a sample (reduction='none'), which the engine averages itself"
        )
    elif not bool(torch.isfinite(loss).all()):
        yield "loss() is not finite on the first samples of a fresh model"
    elif not torch.allclose(task.loss(model(x[:1]), y[:1], given), loss[:1], rtol=CLOSE):
        yield (
            "the loss of a sample depends on the others of its batch: trials of different batch "
            "sizes could not be compared, nor micro-batches added up"
        )
    elif not loss.requires_grad:
        yield "no parameter of the model has an influence on loss()"
    if set(measured) != set(task.extra_metrics):
        yield (
            f"metrics() gives {sorted(measured)} and extra_metrics names "
            f"{sorted(task.extra_metrics)}: they must be the same"
        )
    for name, values in measured.items():
        if values.shape != (len(x),):
            yield (
                f"metric {name} has the shape {list(values.shape)}: return one number a sample, "
                "which are averaged; what needs all samples at once, such as an AUC, a script or a "
                "loop of your own can report"
            )


def _mixing(task: Task, model: nn.Module) -> Iterator[str]:
    """Modules whose statistics depend on the micro-batch."""
    names = mixing_modules(model)
    if not names:
        return
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    if task.ghost_batch_norm:
        yield f"BatchNorm ({some}): its statistics are those of the micro-batch, as is accepted"
    else:
        yield (
            f"BatchNorm ({some}): trials of different batch sizes cannot share a population, since "
            "its statistics are those of the micro-batch; `ghost_batch_norm = True` in the task's "
            "class accepts that"
        )


def _apart(task: Task, model: nn.Module, config: dict[str, Any]) -> Iterator[str]:
    """Numbers of the training that are part of the model, so that trials do not share one."""
    numbers = dict.fromkeys(sorted(TRAINING_NUMBERS | optimizer_names()), 0.25)
    numbers |= {"batch_size": 16, "epochs": 3}
    alike = structure(model.train())
    if not difference(alike, structure(build(task, {**config, **numbers}, 0, torch.float32))):
        return
    for name, value in numbers.items():
        other = difference(alike, structure(build(task, {**config, name: value}, 0, torch.float32)))
        if other:
            yield (
                f"model() builds {name} into the model ({other}): trials that differ in it do not "
                "train together; of a training's numbers a module may keep the rate of an "
                "nn.Dropout alone"
            )


def _speed(task: Task, config: dict[str, Any], data: TrainingData, slots: int) -> tuple[float, str]:
    """Samples a second over all slots, and the form that was chosen for them."""
    population = Population(task, config, slots, data=data)
    for slot in range(slots):
        population.load(slot, config, seed=slot, epochs=1000.0)
    best = 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        population.train(TIMED_SAMPLES)
        best = max(best, slots * TIMED_SAMPLES / (time.perf_counter() - start))
    return round(best, 1), population.engine.explanation.partition(" (")[0]
