from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from tests.tuner.tasks import zoo
from tuner import optimizers
from tuner.errors import InvalidInput
from tuner.optimizers import create
from tuner.schedules import LRScheduler
from tuner.schedules.plan import Plan
from tuner.spec import optimizer_steps
from tuner.tasks import Arrays, Setting, Splits, Task
from tuner.training import program
from tuner.training.architecture import build, structure_key
from tuner.training.population import Population
from tuner.training.randomness import slot_functions
from tuner.training.slot import Slot
from tuner.training.source import permutation
from tuner.training.trainer import Trainer

EPOCHS = 4
VMAPPABLE = [kind for kind in zoo.TASKS if kind not in (zoo.LstmTask, zoo.BatchNormTask)]
CONFIGS: list[dict[str, Any]] = [
    {"optimizer": "adamw", "lr": 3e-3, "batch_size": 10, "schedule": "cosine"},
    {"optimizer": "sgd", "lr": 5e-2, "batch_size": 20, "momentum": 0.9, "clip_norm": 0.5},
    {"optimizer": "adamw", "lr": 1e-2, "batch_size": 30, "beta2": 0.99, "warmup_fraction": 0.3},
    {"optimizer": "sgd", "lr": 1e-2, "batch_size": 10, "nesterov": 1.0, "momentum": 0.5,
     "schedule": "wsd", "label_smoothing": 0.1},
]  # fmt: skip


def plain_loop(task: Task, config: dict[str, Any], seed: int, epochs: int = EPOCHS) -> Any:
    """What a practitioner writes: an ordinary model, optimizer, and batches in order."""
    data = task.data().train
    x, y = data.x, data.y
    if x.is_floating_point():
        x = x.double()
    if y.is_floating_point():
        y = y.double()
    model = build(task, config, seed, torch.float64)
    names = {"momentum", "nesterov", "beta1", "beta2", "eps", "weight_decay"} & set(config)
    optimizer = create(
        config["optimizer"], model.parameters(), lr=config["lr"], **{n: config[n] for n in names}
    )
    batch_size = config["batch_size"]
    per_epoch = math.ceil(len(x) / batch_size)
    plan = Plan.of(config, EPOCHS * per_epoch, epochs=EPOCHS)
    scheduler = LRScheduler(
        optimizer,
        plan.schedule.name,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        **plan.settings,
    )
    numbers = {
        "label_smoothing": torch.tensor(config.get("label_smoothing", 0.0), dtype=torch.float64)
    }
    seed32 = torch.tensor((seed * 2654435761 + 97) % (1 << 31), dtype=torch.int32)
    for epoch in range(epochs):
        order = permutation(len(x), 5, epoch)
        for at in range(0, len(x), batch_size):
            chosen = order[at : at + batch_size]
            offset = torch.tensor(epoch * len(x) + at, dtype=torch.int32)
            with slot_functions(seed32, offset):
                output = model(x[chosen])
            loss = task.loss(output, y[chosen], numbers).mean()
            optimizer.zero_grad()
            loss.backward()
            if config.get("clip_norm"):
                torch.nn.utils.clip_grad_norm_(model.parameters(), config["clip_norm"])
            optimizer.step()
            scheduler.step()
    return model


def params(population: Population, slot: int) -> dict[str, torch.Tensor]:
    tensors = population.state_dict(slot)["tensors"]
    return {n.removeprefix("param."): t for n, t in tensors.items() if n.startswith("param.")}


def assert_same(found: dict[str, torch.Tensor], model: nn.Module, limit: float) -> None:
    """Relative error of the whole vector of parameters."""
    expected = {name: p.detach() for name, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    error = torch.stack([(found[name] - p).norm() for name, p in expected.items()]).norm()
    error = error / torch.stack([p.norm() for p in expected.values()]).norm()
    assert error <= limit, f"{float(error):.2e}"


def assert_same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class _Branching(nn.Module):
    """Decides on a value, which no recorded or batched program can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, zoo.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out * 2 if self.body.bias.sum() > 0 else out


class _Scaled(nn.Module):
    """Ends in a learnt temperature, which is a 0-d parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.body = nn.Linear(8, zoo.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x) * self.temperature
        return out


class ScaledTask(zoo.MlpTask):
    def model(self, config: Any) -> nn.Module:
        return _Scaled()


class BranchingTask(zoo.MlpTask):
    def model(self, config: Any) -> nn.Module:
        return _Branching()


class LookingTask(zoo.MlpTask):
    """A metric that looks at values: only training can be recorded."""

    extra_metrics = ("sure",)

    def metrics(self, output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        sure = output.softmax(-1).amax(-1)
        return {"sure": sure if bool(torch.isfinite(sure).all()) else torch.zeros_like(sure)}


def population(task: Task, slots: int = 4, **options: Any) -> Population:
    return Population(task, CONFIGS[0], slots, **{"dtype": torch.float64, **options})


def two_trained(task: Task, engine: Any) -> Population:
    """Two slots with configurations of their own, trained to the end."""
    pop = population(task, 2, engine=engine)
    for slot in range(2):
        pop.load(slot, CONFIGS[slot], seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    return pop


@pytest.mark.parametrize("engine", ["fused", "looped"])
@pytest.mark.parametrize("kind", VMAPPABLE, ids=lambda kind: kind.__name__)
def test_a_slot_is_a_plain_loop(kind: type[Task], engine: Any) -> None:
    """Mixed batch sizes, optimizers, schedules, clipping and smoothing in one population."""
    task = kind()
    pop = population(task, engine=engine)
    for slot, config in enumerate(CONFIGS):
        pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot, config in enumerate(CONFIGS):
        # The key bias of attention has no gradient but rounding, which Adam then scales up.
        limit = 1e-10 if kind is zoo.TransformerTask else 1e-12
        assert_same(params(pop, slot), plain_loop(task, config, slot), limit)
        assert pop.slot(slot).step == pop.slot(slot).total_steps


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_every_optimizer_takes_a_parameter_without_axes(engine: Any) -> None:
    names = optimizers.names()
    task = ScaledTask()
    pop = population(task, len(names), engine=engine)
    configs = [{"optimizer": n, "lr": optimizers.get(n).hyper["lr"].default} for n in names]
    configs = [{**config, "batch_size": 10} for config in configs]
    for slot, config in enumerate(configs):
        pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot, config in enumerate(configs):
        if optimizers.get(names[slot]).needs:  # curvature, which the plain loop has none of
            assert all(bool(p.isfinite().all()) for p in params(pop, slot).values())
            assert float(params(pop, slot)["temperature"]) != 1.5
            continue
        # Rounding turns SOAP's first bases, where the factors are short of rank.
        limit = 0.1 if names[slot] == "soap" else 1e-12
        assert_same(params(pop, slot), plain_loop(task, config, slot), limit)


@pytest.mark.parametrize("name", ["adamw", "nadam"])
def test_a_momentum_that_moves_does_so_beside_other_lengths(name: str) -> None:
    task = zoo.MlpTask()
    config = {"optimizer": name, "lr": 3e-3, "schedule": "one_cycle"}
    configs = [{**config, "batch_size": size} for size in (10, 20)]
    pop = population(task, 2)
    for slot, each in enumerate(configs):
        pop.load(slot, each, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot, each in enumerate(configs):
        assert_same(params(pop, slot), plain_loop(task, each, slot), 1e-12)


def test_hundreds_of_steps_stay_within_rounding() -> None:
    task = zoo.MlpTask()
    config = {**CONFIGS[0], "batch_size": 1}
    pop = population(task, 2)
    pop.load(0, config, seed=1, epochs=EPOCHS, data_seed=5)
    pop.load(1, {**config, "batch_size": 2, "lr": 1e-3}, seed=1, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    assert pop.slot(0).step == 384
    assert_same(params(pop, 0), plain_loop(task, config, 1), 1e-12)


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_single_precision_agrees_to_its_own_rounding(engine: Any) -> None:
    task = zoo.MlpTask()
    pop = population(task, engine=engine, dtype=torch.float32)
    for slot, config in enumerate(CONFIGS):
        pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot, config in enumerate(CONFIGS):
        # Rounding grows along a trajectory; 23 steps of a tanh network keep five digits.
        found = {name: value.double() for name, value in params(pop, slot).items()}
        assert_same(found, plain_loop(task, config, slot), 1e-4)


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_batch_norm_is_exact_when_the_micro_batch_is_the_batch(engine: Any) -> None:
    task = zoo.BatchNormTask()
    # Not Adam: it scales up the rounding that is all the gradient of a bias before a norm.
    config = {**CONFIGS[1], "batch_size": 10}
    pop = population(task, 3, engine=engine)
    for slot in range(3):
        pop.load(slot, {**config, "lr": 10 ** -(slot + 1)}, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot in range(3):
        model = plain_loop(task, {**config, "lr": 10 ** -(slot + 1)}, slot)
        assert_same(params(pop, slot), model, 1e-12)
        tensors = pop.state_dict(slot)["tensors"]
        for name, expected in model.named_buffers():
            torch.testing.assert_close(tensors[f"buffer.{name}"], expected, rtol=1e-12, atol=1e-14)


def test_a_recurrent_model_trains_looped_or_fused() -> None:
    task = zoo.LstmTask()
    pop = population(task)
    for slot, config in enumerate(CONFIGS):
        pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot, config in enumerate(CONFIGS):
        assert_same(params(pop, slot), plain_loop(task, config, slot), 1e-12)


def test_a_recurrent_model_trains_in_single_precision_too() -> None:
    """Whose kernel is another one, which has to be told that there will be a backward pass."""
    task = zoo.LstmTask()
    pop = population(task, 1, dtype=torch.float32, engine="looped")
    pop.load(0, CONFIGS[0], seed=0, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    assert pop.engine.verdict.recorded
    expected = plain_loop(task, CONFIGS[0], 0).float()
    assert_same(params(pop, 0), expected, 1e-4)


def test_a_model_that_branches_on_values_is_looped_and_says_why() -> None:
    task = BranchingTask()
    pop = population(task, 2)
    assert not pop.engine.verdict.fused
    assert "vmap refuses" in pop.engine.explanation
    pop.load(0, CONFIGS[0], seed=0, epochs=EPOCHS, data_seed=5)
    pop.load(1, CONFIGS[1], seed=1, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot in (0, 1):
        assert_same(params(pop, slot), plain_loop(task, CONFIGS[slot], slot), 1e-12)


def test_what_cannot_be_recorded_runs_as_it_is_also_unchecked() -> None:
    """Whoever trusts the model, as an examination of it does, still gets the plain numbers."""
    task = BranchingTask()
    pop = population(task, 1, engine="looped", check=False)
    pop.load(0, CONFIGS[0], seed=0, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    assert_same(params(pop, 0), plain_loop(task, CONFIGS[0], 0), 1e-12)
    assert "depends on values" in pop.programs.refused


def test_a_metric_that_looks_at_values_is_measured_all_the_same() -> None:
    pop = population(LookingTask(), 1, engine="looped")
    pop.load(0, CONFIGS[0], seed=0, epochs=EPOCHS, data_seed=5)
    for _ in range(2 * program.HOT):
        pop.evaluate()
    sure = pop.measurements()[0]["val_sure"]
    assert sure is not None
    assert 1 / zoo.CLASSES < sure <= 1


def test_neighbours_place_and_number_do_not_matter() -> None:
    """The same trial alone, last of five, and next to a diverging one: the same numbers."""
    task = zoo.DropoutTask()
    alone = population(task, 1)
    alone.load(0, CONFIGS[2], seed=9, epochs=EPOCHS, data_seed=5)
    alone.train(EPOCHS * zoo.TRAIN)
    crowd = population(task, 5)
    for slot, config in enumerate([*CONFIGS[:2], {**CONFIGS[3], "lr": 1e300}, CONFIGS[3]]):
        crowd.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    crowd.load(4, CONFIGS[2], seed=9, epochs=EPOCHS, data_seed=5)
    crowd.train(EPOCHS * zoo.TRAIN)
    assert not math.isfinite(sum(float(t.sum()) for t in params(crowd, 2).values()))
    for name, value in params(alone, 0).items():
        torch.testing.assert_close(params(crowd, 4)[name], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("hot", [1, 12])
@pytest.mark.parametrize("slots", [3, 4])
def test_refill_in_the_middle(monkeypatch: pytest.MonkeyPatch, hot: int, slots: int) -> None:
    """A slot refilled after an epoch trains beside one that is further: both are plain loops.

    Recorded at once or late, padded to four rows or not.
    """
    monkeypatch.setattr(program, "HOT", hot)
    task = zoo.MlpTask()
    pop = population(task, slots, engine="fused")
    for slot in range(3):
        pop.load(slot, CONFIGS[slot], seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(zoo.TRAIN)
    pop.load(1, CONFIGS[3], seed=7, epochs=EPOCHS, data_seed=5)
    pop.train(2 * zoo.TRAIN)
    pop.evict(0)
    pop.train(zoo.TRAIN)
    assert_same(params(pop, 2), plain_loop(task, CONFIGS[2], 2), 1e-12)
    assert_same(params(pop, 1), plain_loop(task, CONFIGS[3], 7, epochs=3), 1e-12)
    assert pop.active == [1, 2]


class _Padded(nn.Module):
    """Has a word that is none, and whose vector is not trained."""

    def __init__(self, *, ours: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(zoo.WORDS, 8, padding_idx=-2)
        self.head = nn.Linear(8, zoo.WORDS)
        self.ours = ours

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beneath = torch.embedding(self.words.weight, x, zoo.WORDS - 2)
        out: torch.Tensor = self.head(self.words(x) if self.ours else beneath)
        return out


class PaddedTask(zoo.TiedTask):
    ours = True

    def model(self, config: Any) -> nn.Module:
        return _Padded(ours=self.ours)


@pytest.mark.parametrize("ours", [True, False])
def test_padding_is_not_trained_beside_a_trial_of_another_epoch(ours: bool) -> None:
    """Where each slot has words of its own, torch's kernel knows the first one's padding alone."""
    task = PaddedTask()
    task.ours = ours
    pop = population(task, 2)
    assert pop.engine.verdict.fused == ours, "a kernel that is out of reach is found out"
    for slot in range(2):
        pop.load(slot, CONFIGS[slot], seed=slot, epochs=EPOCHS, data_seed=5)
        pop.train(zoo.TRAIN)
    for slot in range(2):
        model = plain_loop(task, CONFIGS[slot], slot, epochs=2 - slot)
        assert_same(params(pop, slot), model, 1e-12)


@pytest.mark.parametrize("at", [zoo.TRAIN, zoo.TRAIN + 14, 3])
def test_pause_and_resume_elsewhere(at: int) -> None:
    """Saved at an epoch's end or in the middle of a batch, resumed in another population."""
    task = zoo.DropoutTask()
    first = population(task)
    for slot, config in enumerate(CONFIGS):
        first.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    first.train(at)
    saved = first.state_dict(2)
    second = population(task, 2, engine="looped")
    second.load(0, CONFIGS[0], seed=3, epochs=EPOCHS, data_seed=5)
    second.load_state_dict(saved, 1)
    second.train(EPOCHS * zoo.TRAIN - at)
    assert_same(params(second, 1), plain_loop(task, CONFIGS[2], 2), 1e-12)


def test_a_whole_population_comes_back() -> None:
    task = zoo.MlpTask()
    first, second = population(task), population(task)
    for slot, config in enumerate(CONFIGS):
        first.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    first.train(20)
    second.load_state_dict(first.state_dict())
    for pop in (first, second):
        pop.train(EPOCHS * zoo.TRAIN - 20)
    for slot in range(4):
        for name, value in params(first, slot).items():
            torch.testing.assert_close(params(second, slot)[name], value, rtol=1e-13, atol=0)
        assert first.slot(slot).progress()["step"] == second.slot(slot).progress()["step"]


def test_copy_continues_from_the_source_with_other_numbers() -> None:
    """Exploit and explore: weights and optimizer state come along, the new rate acts from now."""
    task = zoo.MlpTask()
    pop = population(task, 3)
    pop.load(0, CONFIGS[0], seed=0, epochs=EPOCHS, data_seed=5)
    pop.load(1, CONFIGS[1], seed=1, epochs=EPOCHS, data_seed=5)
    pop.train(2 * zoo.TRAIN)
    pop.copy(1, 0)
    pop.copy(2, 0, {**CONFIGS[0], "lr": 1e-5})
    pop.train(2 * zoo.TRAIN)
    for name, value in params(pop, 0).items():
        torch.testing.assert_close(params(pop, 1)[name], value, rtol=1e-13, atol=0)
        assert not torch.allclose(params(pop, 2)[name], value)


def test_a_copy_with_another_optimizer_begins_with_its_first_step() -> None:
    """Averages that are fresh are corrected as such."""
    task = zoo.MlpTask()
    pop = population(task, 2)
    pop.load(0, CONFIGS[1], seed=0, epochs=EPOCHS, data_seed=5)
    pop.train(zoo.TRAIN)
    pop.copy(1, 0, {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.0, "batch_size": 20})
    before = params(pop, 1)
    pop.train({1: 20})
    steps = torch.cat([(p - before[name]).abs().flatten() for name, p in params(pop, 1).items()])
    torch.testing.assert_close(steps.median(), steps.new_tensor(1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("batch_size", [8, 32, 96])
def test_a_copy_with_another_batch_size_stays_where_it_is_in_its_schedule(batch_size: int) -> None:
    """Half of the epochs are half of the schedule, however many steps they were."""
    config = {"optimizer": "sgd", "lr": 0.1, "schedule": "linear", "batch_size": 24}
    pop = population(zoo.MlpTask(), 3)
    pop.load(0, config, seed=0, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS // 2 * zoo.TRAIN)
    pop.copy(1, 0, {**config, "batch_size": batch_size})
    pop.copy(2, 0, {**config, "batch_size": batch_size, "schedule": "constant"})
    copy, before = pop.slot(1), params(pop, 0)
    assert copy.step == pop.slot(0).step, "which bias corrections go by"
    half = copy.total_steps // 2
    rates, _ = copy.plan.table(0, copy.total_steps)
    assert copy.learning_rate() == pytest.approx(config["lr"] * float(rates[half - 1]))
    pop.train({1: batch_size, 2: batch_size})
    assert copy.learning_rate() == pytest.approx(config["lr"] * float(rates[half]))
    for name, value in params(pop, 1).items():
        full = params(pop, 2)[name] - before[name]
        torch.testing.assert_close(value - before[name], full * float(rates[half]))


@pytest.mark.parametrize("engine", ["fused", "looped"])
@pytest.mark.parametrize(
    ("at", "batch_size", "gathered"), [(52, 24, 12), (52, 26, 0), (60, 24, 0), (52, 20, 12)]
)
def test_a_copy_within_a_batch_steps_by_the_mean_of_what_was_gathered(
    at: int, batch_size: int, gathered: int, engine: Any
) -> None:
    """Whether the source's batch of 20 was begun, the copy's, or both; also saved in between."""
    task = zoo.MlpTask()
    config = {"optimizer": "sgd", "lr": 0.1, "batch_size": 20, "schedule": "constant"}
    changed = {**config, "batch_size": batch_size, "optimizer": "momentum", "lr": 0.05}
    pop = population(task, 4, engine=engine)
    pop.load(0, config, seed=0, epochs=EPOCHS, data_seed=5)
    pop.load(1, config, seed=1, epochs=EPOCHS, data_seed=5)
    pop.train(at)
    pop.copy(2, 0, changed)
    pop.load_state_dict({**pop.state_dict(0), "config": {**config, "batch_size": batch_size}}, 3)
    model = build(task, config, 0, torch.float64)
    for name, value in params(pop, 0).items():
        model.get_parameter(name).data.copy_(value)
    pop.train(1)
    pop.load_state_dict(pop.state_dict(2), 2)
    end = (at // batch_size + 1) * batch_size
    pop.train(end - at - 1)
    data = task.data().train
    chosen = permutation(zoo.TRAIN, 5, 0)[at - gathered : end]
    numbers = {"label_smoothing": torch.tensor(0.0, dtype=torch.float64)}
    task.loss(model(data.x[chosen].double()), data.y[chosen], numbers).mean().backward()
    for slot, rate in ((2, 0.05), (3, 0.1)):
        assert pop.slot(slot).step == (1 if slot == 2 else at // 20 + 1)
        for name, value in params(pop, slot).items():
            p = model.get_parameter(name)
            torch.testing.assert_close(value, p - rate * p.grad, rtol=1e-12, atol=1e-14)


def test_a_length_in_decimals_has_no_step_too_many() -> None:
    assert Slot({"batch_size": 10}, 0, 0, 100, 0.1 * 3).total_steps == 3
    assert Slot({"batch_size": 10}, 0, 0, 100, 0.31).total_steps == 4
    assert optimizer_steps({"batch_size": 10}, 100, 0.1 * 3) == 3
    assert optimizer_steps({"batch_size": 10}, 100, 0.31) == 4


def test_a_piece_of_one_sample_is_not_halved() -> None:
    """To measure noise, which only a whole batch tells: a norm refuses what has no samples."""
    pop = population(zoo.NormsTask(), 1, engine="looped")
    pop.load(0, {**CONFIGS[0], "batch_size": 16}, seed=0, epochs=EPOCHS)
    pop.train(1)
    assert pop.slot(0).samples == 1


def test_training_in_pieces_does_not_shrink_the_micro_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that ends within a batch costs a single odd micro-batch, and not a number changes."""
    sizes: list[int] = []
    real = Trainer._micro_batch

    def seen(self: Trainer, runs: Any, rows: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(batch.count)
        return real(self, runs, rows, batch, *args, **kwargs)

    monkeypatch.setattr(Trainer, "_micro_batch", seen)
    task = zoo.DropoutTask()
    configs = [{**CONFIGS[0], "batch_size": size} for size in (16, 32)]
    pops = [population(task, 2) for _ in range(2)]
    for pop, pieces in zip(pops, ([96], [17, 42, 37]), strict=True):
        for slot, config in enumerate(configs):
            pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
        sizes.clear()
        for samples in pieces:
            pop.train(samples)
    assert sizes == [16, 1, 15, 16, 11, 5, 16, 16]
    for slot in range(2):
        for name, value in params(pops[0], slot).items():
            torch.testing.assert_close(params(pops[1], slot)[name], value, rtol=1e-12, atol=1e-14)


def test_a_copy_drops_at_its_own_rate() -> None:
    """Whichever way it came by its parent's weights; also the rate stays through a checkpoint."""
    config = {**CONFIGS[0], "dropout": 0.1}
    pop = Population(zoo.DropoutTask(), config, 4, dtype=torch.float64)
    pop.load(0, config, seed=0, epochs=EPOCHS)
    pop.train(zoo.TRAIN)
    pop.copy(1, 0, {**config, "dropout": 0.7})
    pop.copy(2, 0, {**config, "dropout": 0.6, "optimizer": "sgd"})
    pop.load_state_dict({**pop.state_dict(0), "config": {**config, "dropout": 0.5}}, 3)
    rates = [float(pop.state_dict(k)["tensors"]["buffer.2.p"]) for k in range(4)]
    assert rates == pytest.approx([0.1, 0.7, 0.6, 0.5])
    for slot in (1, 2, 3):
        assert_same_tensors(params(pop, slot), params(pop, 0))


class LayeredTask(zoo.MlpTask):
    """Without a rate it has no layer for it, so that the names of what follows are others."""

    def model(self, config: Any) -> nn.Module:
        rate = config.get("dropout", 0.0)
        dropout = [nn.Dropout(rate)] if rate else []
        return nn.Sequential(nn.Linear(8, 16), *dropout, nn.Linear(16, zoo.CLASSES))


@pytest.mark.parametrize("other", [0.0, 0.2])
def test_what_fits_no_row_is_refused_before_anything_is_lost(other: float) -> None:
    task, config = LayeredTask(), {**CONFIGS[0], "dropout": 0.1}
    pop = Population(task, config, 2)
    pop.load(0, config, seed=0, epochs=EPOCHS)
    pop.train(zoo.TRAIN)
    without = {**config, "dropout": other}
    saved = {**pop.state_dict(0), "config": without}
    if other:
        saved["tensors"] = {n.replace("2.", "1."): t for n, t in saved["tensors"].items()}
    else:
        for put in (pop.load, pop.copy):
            with pytest.raises(InvalidInput, match=r"structure.*: 1 is Linear.*, not Dropout\(\)"):
                put(0, without, seed=0, epochs=1) if put == pop.load else put(1, 0, without)
    before = params(pop, 0)
    with pytest.raises(InvalidInput, match="another"):
        pop.load_state_dict(saved, 0)
    assert pop.active == [0]
    assert_same_tensors(params(pop, 0), before)


class _Rated(nn.Module):
    """Drops at a rate that is an attribute, as many models of others do."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.body = nn.Linear(8, zoo.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.body(x), self.rate, self.training)


@pytest.mark.parametrize(
    ("model", "alike"),
    [
        (lambda rate: nn.Sequential(nn.Linear(8, 4), nn.Dropout(rate)), True),
        (lambda rate: nn.Sequential(nn.Linear(8, 4), nn.AlphaDropout(rate)), False),
        (lambda rate: nn.TransformerEncoderLayer(8, 2, 8, rate), False),
        (_Rated, False),
    ],
    ids=["a module", "alpha", "attention", "an attribute"],
)
def test_rates_that_are_plain_numbers_are_of_the_structure(model: Any, alike: bool) -> None:
    """A program has those of its template, so they would be the first trial's."""

    class Rated(zoo.MlpTask):
        def model(self, config: Any) -> nn.Module:
            made: nn.Module = model(config["dropout"])
            return made

    task = Rated()
    keys = set()
    for rate in (0.1, 0.8):
        config = {**CONFIGS[0], "dropout": rate}
        keys.add(structure_key(build(task, config, 0, torch.float32), task, config))
    assert (len(keys) == 1) == alike


class _Printing(nn.Linear):
    """Prints where it is, as an nn.ParameterList does on a GPU."""

    where = ""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(args[0], torch.device):
            self.where = str(args[0])
        return super().to(*args, **kwargs)

    def extra_repr(self) -> str:
        return self.where


def test_where_the_template_lies_is_not_of_the_structure() -> None:
    class Printed(zoo.MlpTask):
        def model(self, config: Any) -> nn.Module:
            return _Printing(8, zoo.CLASSES)

    pop = population(Printed(), 1)
    assert pop.architecture.template.where == "cpu"
    pop.load(0, CONFIGS[0], seed=0, epochs=1)
    assert pop.active == [0]


class FrozenTask(zoo.TiedTask):
    """A tied model of which a part is frozen."""

    def __init__(self, frozen: str) -> None:
        self.frozen = frozen

    def model(self, config: Any) -> nn.Module:
        model = super().model(config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(self.frozen))
        return model


@pytest.mark.parametrize("engine", ["fused", "looped"])
@pytest.mark.parametrize("frozen", ["embedding", "mix", "mix.bias"])
def test_frozen_parameters_stay(frozen: str, engine: Any) -> None:
    """Neither trained nor decayed, and in checkpoints under their own names."""
    task = FrozenTask(frozen)
    config = {**CONFIGS[0], "weight_decay": 0.1}
    pop = Population(task, config, 3, engine=engine, dtype=torch.float64)
    for slot in range(2):
        pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(zoo.TRAIN)
    pop.load_state_dict(pop.state_dict(1), 2)
    pop.train(zoo.TRAIN)
    for slot in range(3):
        seed = min(slot, 1)
        assert_same(params(pop, slot), plain_loop(task, config, seed, epochs=2), 1e-12)
        fresh = dict(build(task, config, seed, torch.float64).named_parameters())
        for name, value in params(pop, slot).items():
            assert torch.equal(value, fresh[name]) == name.startswith(frozen)
    pop.evaluate()
    assert pop.architecture.size < sum(p.numel() for p in fresh.values())


def test_a_model_of_which_nothing_trains_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no parameter that trains"):
        population(FrozenTask(""))


def _whole_compiled(model: nn.Module) -> nn.Module:
    made: Any = torch.compile(model)
    return made


def _parts_compiled(model: nn.Module) -> nn.Module:
    for name, part in list(model.named_children()):
        setattr(model, name, torch.compile(part))
    return model


def _compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile()
    return model


@pytest.mark.parametrize("wrap", [_whole_compiled, _parts_compiled, _compiled_in_place])
def test_a_model_that_comes_compiled_trains_as_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, wrap: Any
) -> None:
    expected = plain_loop(zoo.MlpTask(), CONFIGS[0], 1)
    plain = zoo.MlpTask.model
    monkeypatch.setattr(zoo.MlpTask, "model", lambda self, config: wrap(plain(self, config)))
    pop = population(zoo.MlpTask(), 2)
    for slot in range(2):
        pop.load(slot, CONFIGS[0], seed=1, epochs=EPOCHS, data_seed=5)
    pop.train(EPOCHS * zoo.TRAIN)
    for slot in range(2):
        assert_same(params(pop, slot), expected, 1e-12)
    assert pop.engine.verdict.fused


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_a_parameter_is_refused(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def model(self: Task, config: Any) -> nn.Module:
        made = nn.Linear(8, zoo.CLASSES)
        getattr(made.weight, kind)(lambda g: None)
        return made

    monkeypatch.setattr(zoo.MlpTask, "model", model)
    with pytest.raises(InvalidInput, match="a hook on the parameter weight, which would not be"):
        population(zoo.MlpTask())


def test_a_complex_parameter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(self: Task, config: Any) -> nn.Module:
        made = nn.Sequential(nn.Linear(8, zoo.CLASSES))
        made.register_parameter("turn", nn.Parameter(torch.ones(3, dtype=torch.complex64)))
        return made

    monkeypatch.setattr(zoo.MlpTask, "model", model)
    with pytest.raises(InvalidInput, match=r"model\(\) has the complex parameter turn"):
        population(zoo.MlpTask())


def test_a_shape_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(self: Task, config: Any) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(zoo.CLASSES))

    monkeypatch.setattr(zoo.MlpTask, "model", model)
    with pytest.raises(InvalidInput, match=r"leaves the shape of 0\.weight to its first batch"):
        population(zoo.MlpTask())


class _Turning(nn.Module):
    """Turns pairs of numbers by fixed angles, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0)))
        self.last = nn.Linear(8, zoo.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.reshape(len(x), 4, 2)) * self.turn
        out: torch.Tensor = self.last(torch.view_as_real(pairs).flatten(1))
        return out


class TurningTask(zoo.MlpTask):
    def model(self, config: Any) -> nn.Module:
        return _Turning()


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_complex_numbers_that_do_not_train_stay_complex(engine: Any) -> None:
    pop = two_trained(TurningTask(), engine)
    for slot in range(2):
        assert_same(params(pop, slot), plain_loop(TurningTask(), CONFIGS[slot], slot), 1e-12)
        turn = pop.state_dict(slot)["tensors"]["buffer.turn"]
        assert torch.equal(turn, _Turning().get_buffer("turn").to(torch.complex128))


def test_what_is_frozen_is_of_the_structure() -> None:
    keys = set()
    for frozen in ("embedding", "mix"):
        task = FrozenTask(frozen)
        keys.add(structure_key(build(task, {}, 0, torch.float32), task, {}))
    assert len(keys) == 2


@pytest.mark.parametrize("part", ["train", "valid"])
def test_data_without_samples_is_refused(part: str) -> None:
    class Empty(zoo.MlpTask):
        def data(self) -> Splits:
            return replace(zoo.vectors(), **{part: Arrays(torch.zeros(0, 8), torch.zeros(0))})

    with pytest.raises(InvalidInput, match=r"gives no (training|validation) samples"):
        population(Empty())


def test_evaluation_is_the_mean_over_the_validation_set() -> None:
    task = zoo.CnnTask()
    pop = population(task)
    for slot, config in enumerate(CONFIGS):
        pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
    pop.train(zoo.TRAIN)
    found = pop.evaluate()
    valid = task.data().valid
    for slot in range(4):
        model = build(task, CONFIGS[slot], 0, torch.float64).eval()
        output = functional_call(model, params(pop, slot), (valid.x.double(),))
        numbers = {"label_smoothing": torch.tensor(0.0)}
        loss = task.loss(output, valid.y, numbers).mean()
        assert found[slot]["val_loss"] == pytest.approx(float(loss), rel=1e-12)
        accuracy = (output.argmax(-1) == valid.y).double().mean()
        assert found[slot]["val_accuracy"] == pytest.approx(float(accuracy), rel=1e-6)
    report = pop.measurements()[1]
    assert report["epoch"] == 1.0
    assert report["lr"] == pytest.approx(5e-2)
    assert report["train_loss"] is not None


class WeightedTask(zoo.MlpTask):
    """Its loss has a hyperparameter of its own."""

    settings = {**zoo.MlpTask.settings, "loss.weight": Setting(1.0, "of each sample")}  # noqa: RUF012

    def loss(self, output: Any, target: torch.Tensor, config: Any) -> torch.Tensor:
        weight = self.setting(config, "loss.weight")
        return weight * super().loss(output, target, config)


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_a_loss_has_its_own_trials_numbers_in_validation_too(engine: Any) -> None:
    pop = population(WeightedTask(), 3, engine=engine)
    for slot, weight in enumerate((0.5, 1.0, 4.0)):
        config = {**CONFIGS[0], "loss.weight": weight, "label_smoothing": 0.1 * slot}
        pop.load(slot, config, seed=0, epochs=EPOCHS)
    found = pop.evaluate()
    assert found[0]["val_loss"] == pytest.approx(found[1]["val_loss"] / 2)
    assert found[2]["val_loss"] == pytest.approx(found[1]["val_loss"] * 4)


def test_trials_whose_losses_read_other_numbers_are_of_other_populations() -> None:
    task = WeightedTask()
    keys = set()
    for config in ({}, {"loss.weight": 2.0}, {"loss.weight": 3.0}, {"lr": 0.1}, {"beta1": 0.8}):
        keys.add(structure_key(build(task, config, 0, torch.float32), task, config))
    assert len(keys) == 2


@pytest.mark.parametrize("name", ["lr", "batch_size", "weight_decay", "schedule", "optimizer"])
def test_a_loss_sees_nothing_that_its_neighbours_have_otherwise(name: str) -> None:
    class Peeking(zoo.MlpTask):
        def loss(self, output: Any, target: torch.Tensor, config: Any) -> torch.Tensor:
            loss: torch.Tensor = config[name] * super().loss(output, target, config)
            return loss

    config = {**CONFIGS[0], "weight_decay": 0.1}
    pop = Population(Peeking(), config, 2, engine="looped", check=False)
    pop.load(0, config, seed=0, epochs=EPOCHS)
    with pytest.raises(KeyError, match=name):
        pop.train(zoo.TRAIN)


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_what_is_no_number_a_sample_is_refused(engine: Any) -> None:
    class Mean(zoo.MlpTask):
        part = "metric"

        def loss(self, output: Any, target: torch.Tensor, config: Any) -> torch.Tensor:
            loss = super().loss(output, target, config)
            return loss.mean() if self.part == "loss" else loss

        def metrics(self, output: Any, target: torch.Tensor) -> dict[str, torch.Tensor]:
            found = super().metrics(output, target)
            return {name: value.mean() for name, value in found.items()}

    task = Mean()
    pop = Population(task, CONFIGS[0], 2, engine=engine, check=False)
    for slot in range(2):
        pop.load(slot, CONFIGS[0], seed=slot, epochs=EPOCHS)
    with pytest.raises(InvalidInput, match="metric accuracy must give one number a sample"):
        pop.evaluate()
    task.part = "loss"
    with pytest.raises(InvalidInput, match=r"loss\(\) must give one number a sample"):
        pop.train(zoo.TRAIN)


@pytest.mark.parametrize("name", [n for n, r in optimizers.registry.items() if not r.needs])
def test_every_optimizer_trains_as_its_ordinary_face(name: str) -> None:
    """Each registered rule in a population of two, against the torch.optim form of itself."""
    task = zoo.MlpTask()
    rate = optimizers.get(name).hyper["lr"].default
    configs = [
        {"optimizer": name, "lr": rate, "batch_size": 10},
        {"optimizer": name, "lr": rate / 2, "batch_size": 20, "schedule": "one_cycle"},
    ]
    pop = population(task, 2)
    for slot, config in enumerate(configs):
        pop.load(slot, config, seed=0, epochs=EPOCHS, data_seed=5)
    pop.train(2 * zoo.TRAIN)
    for slot, config in enumerate(configs):
        # The first gradients span a few directions; in the rest SOAP's basis is rounding's choice.
        limit = 0.05 if name == "soap" else 1e-10
        assert_same(params(pop, slot), plain_loop(task, config, 0, epochs=2), limit)


@pytest.mark.parametrize("name", ["sophia_g", "sophia_h"])
def test_curvature_rules_agree_between_engines(name: str) -> None:
    task = zoo.MlpTask()
    config = {"optimizer": name, "lr": 1e-3, "batch_size": 10}
    results = []
    for engine in ("fused", "looped"):
        pop = population(task, 2, engine=engine)
        pop.load(0, config, seed=0, epochs=EPOCHS, data_seed=5)
        pop.load(1, {**config, "batch_size": 20}, seed=1, epochs=EPOCHS, data_seed=5)
        pop.train(2 * zoo.TRAIN)
        results.append([params(pop, slot) for slot in (0, 1)])
    for fused, looped in zip(*results, strict=True):
        for key, value in looped.items():
            torch.testing.assert_close(fused[key], value, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("engine", ["fused", "looped"])
@pytest.mark.parametrize("name", ["sophia_g", "sophia_h"])
def test_curvature_is_that_of_the_batch_however_it_was_cut(name: str, engine: Any) -> None:
    """By the micro-batches that a neighbour asks for, or by a pause within the batch."""
    config = {"optimizer": name, "lr": 1e-2, "batch_size": 20}
    found = []
    for others, pieces in (([], [96]), ([8], [96]), ([], [13, 83])):
        pop = population(zoo.DropoutTask(), 2, engine=engine)
        pop.load(0, config, seed=0, epochs=EPOCHS, data_seed=5)
        for size in others:
            pop.load(1, {**config, "batch_size": size}, seed=1, epochs=EPOCHS, data_seed=6)
        for samples in pieces:
            pop.train(samples)
        found.append(pop.state_dict(0)["tensors"])
    for other in found[1:]:
        for key, value in found[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["sophia_g", "sophia_h", "schedule_free_adamw"])
def test_half_precision_takes_what_is_computed_beside_the_step(
    name: str, dtype: torch.dtype
) -> None:
    """Curvature and the weights to evaluate: fused too, with state in single precision."""
    results = []
    for engine in ("fused", "looped"):
        pop = population(zoo.MlpTask(), 2, engine=engine, dtype=dtype, autocast=torch.bfloat16)
        for slot in range(2):
            config = {"optimizer": name, "lr": 1e-3, "batch_size": 10 + 10 * slot}
            pop.load(slot, config, seed=slot, epochs=EPOCHS, data_seed=5)
        pop.train(2 * zoo.TRAIN)
        losses = [metrics["val_loss"] for metrics in pop.evaluate().values()]
        results.append((losses, [params(pop, slot) for slot in range(2)]))
        assert pop.engine.verdict.fused == (engine == "fused")
        tensors = pop.state_dict(0)["tensors"]
        states = [value for key, value in tensors.items() if key.startswith("state.")]
        assert {value.dtype for value in states} == {torch.float32}
    (fused_losses, fused), (looped_losses, looped) = results
    assert fused_losses == pytest.approx(looped_losses, rel=0.02)
    for one, other in zip(fused, looped, strict=True):
        for key, value in other.items():
            torch.testing.assert_close(one[key], value, rtol=0.02, atol=0.02)


class _Noisy(nn.Module):
    """Draws from torch's own generator, in training as in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, zoo.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x + torch.randn_like(x))
        return out


class NoisyTask(zoo.MlpTask):
    def model(self, config: Any) -> nn.Module:
        return _Noisy()


class DroppingLstmTask(zoo.LstmTask):
    def model(self, config: Any) -> nn.Module:
        model = super().model(config)
        model.recurrent = nn.LSTM(8, self.setting(config, "model.hidden"), 2, True, True, 0.5)
        return model


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("kind", [NoisyTask, DroppingLstmTask])
def test_what_a_model_draws_by_itself_is_its_trials(kind: type[Task], check: bool) -> None:
    """Whatever the caller has drawn, and nothing of the caller's is drawn."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        pop = population(kind(), 2, engine="auto" if check else "looped", check=check)
        for slot in range(2):
            pop.load(slot, {**CONFIGS[0], "lr": 1e-2}, seed=0, epochs=EPOCHS, data_seed=5)
        pop.train(2 * zoo.TRAIN)
        found += [(params(pop, slot), pop.evaluate()[slot]) for slot in range(2)]
        assert torch.equal(torch.get_rng_state(), before)
        assert not pop.engine.verdict.fused or not check
    for tensors, metrics in found[1:]:
        assert_same_tensors(tensors, found[0][0])
        assert metrics == found[0][1]


class TrackingTask(zoo.CnnTask):
    """Whose buffers are moved on by every micro-batch."""

    def model(self, config: Any) -> nn.Module:
        norm = nn.InstanceNorm2d(4, track_running_stats=True)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), norm, nn.MaxPool2d(6), nn.Flatten(), nn.Linear(4, zoo.CLASSES)
        )


class _Checkpointed(nn.Module):
    """Computes its hidden layer again in the backward pass, in either of torch's ways, or not."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.hidden = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.Tanh())
        self.last = nn.Linear(8, zoo.CLASSES)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.reentrant is None:
            x = self.hidden(x)
        else:
            x = checkpoint(self.hidden, x, use_reentrant=self.reentrant)
        out: torch.Tensor = self.last(x)
        return out


class CheckpointedTask(zoo.MlpTask):
    reentrant: bool | None = None

    def model(self, config: Any) -> nn.Module:
        return _Checkpointed(self.reentrant)


@pytest.mark.parametrize("engine", ["fused", "looped"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_model_that_computes_again_has_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, reentrant: bool, engine: Any
) -> None:
    expected = [plain_loop(CheckpointedTask(), CONFIGS[slot], slot) for slot in range(2)]
    monkeypatch.setattr(CheckpointedTask, "reentrant", reentrant)
    pop = two_trained(CheckpointedTask(), engine)
    for slot in range(2):
        assert_same(params(pop, slot), expected[slot], 1e-12)
    assert pop.engine.verdict.fused == (engine == "fused")
    body = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    seen = []
    body[0].register_forward_hook(lambda *_: seen.append(1))
    checkpoint(body, torch.ones(2), use_reentrant=False).sum().backward()
    assert len(seen) == 2, "elsewhere it is torch's again"


class _Looking(nn.Module):
    """Looks words up, in embeddings whose gradients may be sparse."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.one = nn.Embedding(zoo.WORDS, 8, sparse=sparse)
        self.bag = nn.EmbeddingBag(zoo.WORDS, 8, mode="sum", sparse=sparse)
        self.head = nn.Linear(8, zoo.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        words = (x.abs() * 4).long().clamp(max=zoo.WORDS - 1)
        out: torch.Tensor = self.head(torch.tanh(self.one(words).mean(1) + self.bag(words)))
        return out


class LookupTask(zoo.MlpTask):
    sparse = False

    def model(self, config: Any) -> nn.Module:
        return _Looking(self.sparse)


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_embeddings_of_sparse_gradients_train_as_dense_ones(
    monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    expected = [plain_loop(LookupTask(), CONFIGS[slot], slot) for slot in range(2)]
    monkeypatch.setattr(LookupTask, "sparse", True)
    pop = two_trained(LookupTask(), engine)
    for slot in range(2):
        assert_same(params(pop, slot), expected[slot], 1e-12)


class _Centred(nn.Module):
    """Takes off a running mean, in whose place it puts a new tensor at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, zoo.CLASSES)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        out: torch.Tensor = self.body(x - self.mean)
        return out


class CentredTask(zoo.MlpTask):
    def model(self, config: Any) -> nn.Module:
        return _Centred()


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_a_buffer_that_is_replaced_is_kept(engine: Any) -> None:
    pop = two_trained(CentredTask(), engine)
    for slot in range(2):
        model = plain_loop(CentredTask(), CONFIGS[slot], slot)
        assert_same(params(pop, slot), model, 1e-12)
        kept = pop.state_dict(slot)["tensors"]["buffer.mean"]
        torch.testing.assert_close(kept, model.mean, rtol=1e-12, atol=1e-14)
        assert float(kept.norm()) > 0


class AcrossTask(zoo.DropoutTask):
    """Drops units of all samples alike, so that axis 0 is not the batch; or none at all."""

    def model(self, config: Any) -> nn.Module:
        return _Across(float(config.get("dropout", 0.0)))


class _Across(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.body, self.drop = nn.Linear(8, zoo.CLASSES), nn.Dropout(rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.drop(self.body(x).mT).mT
        return out


class _Attending(nn.Module):
    """Asks attention for its weights, for which it lays the heads beside the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(8, zoo.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        words = x.unsqueeze(-1) * x.unsqueeze(-2)
        out: torch.Tensor = self.head(
            self.attend(words, words, words, need_weights=True)[0].mean(1)
        )
        return out


class AttendingTask(zoo.MlpTask):
    def model(self, config: Any) -> nn.Module:
        return _Attending()


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_heads_beside_the_samples_drop_by_sample(engine: Any) -> None:
    found = []
    for others in ([], [10, 24]):
        pop = population(AttendingTask(), 3, engine=engine)
        assert not pop.engine.verdict.whole
        # Not Adam: the key bias of attention has no gradient but rounding.
        pop.load(0, {**CONFIGS[1], "batch_size": 16}, seed=3, epochs=EPOCHS, data_seed=5)
        for slot, size in enumerate(others, 1):
            pop.load(slot, {**CONFIGS[1], "batch_size": size}, slot, epochs=EPOCHS, data_seed=5)
        pop.train(zoo.TRAIN)
        found.append(pop.state_dict(0)["tensors"])
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-9, atol=1e-12)


class PairsTask(zoo.MlpTask):
    """A loss in which samples meet each other."""

    def loss(self, output: Any, target: torch.Tensor, config: Any) -> torch.Tensor:
        return super().loss(output, target, config) + (output - output.mean(0)).square().sum(1)


@pytest.mark.parametrize("engine", ["fused", "looped"])
@pytest.mark.parametrize("kind", [NoisyTask, DroppingLstmTask, TrackingTask, AcrossTask, PairsTask])
def test_a_batch_whose_parts_are_another_is_not_cut(kind: type[Task], engine: Any) -> None:
    """By the batch sizes of neighbours; those of one size still train together."""
    config = {**CONFIGS[0], "batch_size": 16, "dropout": 0.5}
    found = []
    for others in ([], [16, 24, 10]):
        pop = population(kind(), 4, engine=engine)
        pop.load(0, config, seed=3, epochs=EPOCHS, data_seed=5)
        for slot, size in enumerate(others, 1):
            pop.load(slot, {**config, "batch_size": size}, seed=slot, epochs=EPOCHS, data_seed=5)
        pop.train(zoo.TRAIN)
        found.append(pop.state_dict(0)["tensors"])
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("engine", ["fused", "looped"])
def test_a_loss_is_taken_and_added_up_in_single_precision(engine: Any) -> None:
    """Both engines: in half precision a loss had three digits, and 257 right answers were 256."""
    seen = set()

    class Large(zoo.MappingTask):
        def data(self) -> Splits:
            few = zoo.vectors()
            assert isinstance(few.valid, Arrays)
            many = Arrays(few.valid.x.repeat(65, 1), few.valid.y.repeat(65))
            return Splits(few.train, many)

        def loss(self, output: Any, target: torch.Tensor, config: Any) -> torch.Tensor:
            seen.add(output["logits"].dtype)
            return super().loss(output, target, config)

    slots = 2 if engine == "fused" else 1
    losses = []
    for autocast in (torch.bfloat16, None):
        pop = population(
            Large(), slots, dtype=torch.float32, autocast=autocast, engine=engine, check=False
        )
        for slot in range(slots):
            pop.load(slot, CONFIGS[0], seed=slot, epochs=EPOCHS)
        pop.train(zoo.TRAIN)
        metrics = pop.evaluate()[0]
        losses.append(metrics["val_loss"])
        right = metrics["val_accuracy"] * 32
        assert right == pytest.approx(round(right), abs=1e-9)
    assert seen == {torch.float32}
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_parts_of_a_model_have_rates_of_their_own() -> None:
    """lr_scale by prefix equals torch's parameter groups; rules that cannot are refused by name."""
    task = zoo.MlpTask()
    config = {**CONFIGS[1], "lr_scale.0": 0.1, "clip_norm": None, "batch_size": 20}
    pop = population(task, 2)
    pop.load(0, config, seed=4, epochs=EPOCHS, data_seed=5)
    pop.load(1, {**CONFIGS[0], "batch_size": 20}, seed=4, epochs=EPOCHS, data_seed=5)
    pop.train(zoo.TRAIN)
    model = build(task, config, 4, torch.float64)
    groups = [
        {"params": list(model[0].parameters()), "lr": 0.1 * config["lr"]},
        {"params": list(model[2].parameters()), "lr": config["lr"]},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    data = task.data().train
    numbers = {"label_smoothing": torch.tensor(0.0, dtype=torch.float64)}
    order = permutation(zoo.TRAIN, 5, 0)
    for at in range(0, zoo.TRAIN, 20):
        chosen = order[at : at + 20]
        optimizer.zero_grad()
        task.loss(model(data.x[chosen].double()), data.y[chosen], numbers).mean().backward()
        optimizer.step()
    assert_same(params(pop, 0), model, 1e-12)
    for name in ("prodigy", "schedule_free_adamw"):
        with pytest.raises(InvalidInput, match=r"lr_scale\.0"):
            pop.load(0, {**config, "optimizer": name}, seed=0, epochs=1)
    assert pop.active == [0, 1]


def test_a_tied_parameter_has_a_rate_under_each_of_its_names() -> None:
    """Its first one before the others."""
    task = zoo.TiedTask()
    pop = population(task, 4)
    for slot, scales in enumerate(
        ({"embedding": 0.1}, {"head": 0.1}, {"embedding": 0.1, "head": 3.0}, {})
    ):
        named = {f"lr_scale.{name}": scale for name, scale in scales.items()}
        pop.load(slot, {**CONFIGS[1], **named}, seed=0, epochs=EPOCHS, data_seed=5)
    pop.train(zoo.TRAIN)
    for name, value in params(pop, 0).items():
        for slot in (1, 2):
            torch.testing.assert_close(params(pop, slot)[name], value, rtol=1e-12, atol=1e-14)
        assert not torch.allclose(params(pop, 3)[name], value)


def test_a_rate_of_a_part_that_is_not_there_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """What trains, or how many layers there are, may be searched beside it."""
    task = FrozenTask("mix")
    pop = population(task, 2)
    tied = [name for name, _ in task.model({}).named_parameters(remove_duplicate=False)]
    for name in ("mix", *tied):
        pop.load(0, {**CONFIGS[0], f"lr_scale.{name}": 0.1}, seed=0, epochs=1)
    assert not caplog.records
    for slot in range(2):
        pop.load(slot, {**CONFIGS[0], "lr_scale.mi": 0.1}, seed=0, epochs=1)
    assert [record.getMessage() for record in caplog.records] == [
        "lr_scale.mi names no parameter of this model"
    ]
