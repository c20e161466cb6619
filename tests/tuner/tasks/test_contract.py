"""What every task of the registry promises, and every task of the zoo as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from tests.tuner.tasks import zoo
from tuner import tasks
from tuner.errors import InvalidInput
from tuner.tasks import Arrays, Setting, Task
from tuner.training import Population

Make = Callable[[Path], Task]


def _text(folder: Path) -> Task:
    path = folder / "rhyme.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 200, encoding="utf-8")
    return tasks.get("text")(path=str(path), window=64)


def _table(folder: Path, kind: str) -> Task:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "a": rng.normal(size=200),
            "b": rng.choice(["red", "green", "blue"], 200),
            "c": rng.integers(0, 9, 200),
        }
    )
    score = frame["a"] * 2 - frame["c"] + 3 * (frame["b"] == "red")
    frame["y"] = np.where(score > score.median(), "yes", "no") if kind == "classes" else score
    frame.to_csv(folder / "table.csv", index=False)
    return tasks.get("tabular")(path=str(folder / "table.csv"), target="y")


def _images(folder: Path) -> Task:
    splits = zoo.pictures()
    assert isinstance(splits.train, Arrays)
    x = (splits.train.x * 40 + 100).clamp(0, 255).to(torch.uint8).squeeze(1).numpy()
    np.savez(folder / "images.npz", x_train=x, y_train=splits.train.y.numpy())
    return tasks.get("images")(path=str(folder / "images.npz"))


MAKERS: dict[str, Make] = {
    "digits": lambda folder: tasks.get("digits")(),
    "digits_cnn": lambda folder: tasks.get("digits_cnn")(),
    "text": _text,
    "tabular": lambda folder: _table(folder, "classes"),
    "tabular_regression": lambda folder: _table(folder, "numbers"),
    "images": _images,
    **{kind.name: (lambda folder, kind=kind: kind()) for kind in zoo.TASKS},
}

BUILT_IN = [name for name in MAKERS if not name.startswith("zoo")]


@pytest.fixture(params=MAKERS)
def task(request: pytest.FixtureRequest, tmp_path: Path) -> Task:
    return MAKERS[request.param](tmp_path)


def arrays(task: Task, part: str = "train") -> Arrays:
    samples = getattr(task.data(), part)
    assert isinstance(samples, Arrays)
    return samples


def build(task: Task, seed: int = 0, **config: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.model(config)


def inputs(task: Task, m: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x, y = arrays(task).x[:m], arrays(task).y[:m]
    if x.is_floating_point():
        x = x.to(dtype)
    return x, y.to(dtype) if y.is_floating_point() else y


def test_every_registered_task_is_here() -> None:
    registered = {name for name in tasks.registry if not name.startswith("zoo")}
    assert registered == {"digits", "digits_cnn", "images", "tabular", "text"}
    assert registered <= set(MAKERS)


def test_data_is_the_same_every_time_and_the_parts_are_apart(task: Task, tmp_path: Path) -> None:
    first, second = task.data(), task.data()
    for part in ("train", "valid", "test"):
        a, b = getattr(first, part), getattr(second, part)
        if a is None:
            assert b is None
            continue
        assert len(a) > 0
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
        assert len(a.x) == len(a.y)
        if a.x.is_floating_point():
            assert a.x.isfinite().all()


def test_the_model_is_its_seed(task: Task) -> None:
    one, same, other = (build(task, seed) for seed in (3, 3, 4))
    pairs = list(zip(one.parameters(), same.parameters(), strict=True))
    assert pairs
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_loss_and_metrics_are_of_each_sample(task: Task) -> None:
    model = build(task).eval()
    x, y = inputs(task, 12)
    output = model(x)
    loss = task.loss(output, y, {"label_smoothing": 0.0})
    assert loss.shape == (12,)
    assert loss.isfinite().all()
    metrics = task.metrics(output, y)
    assert set(metrics) <= set(task.extra_metrics)
    assert all(value.shape == (12,) for value in metrics.values())
    for i in (0, 7):  # what one sample gets does not depend on its neighbours
        alone = task.loss(model(x[i : i + 1]), y[i : i + 1], {})
        torch.testing.assert_close(alone[0], loss[i], rtol=1e-4, atol=1e-6)
    names = [f"val_{name}" for name in metrics]
    assert task.metric_names() == ["val_loss", "train_loss", *names]
    assert task.objective[0] in task.metric_names()


def test_label_smoothing_may_be_a_tensor(task: Task) -> None:
    model = build(task).eval()
    x, y = inputs(task, 6)
    number = task.loss(model(x), y, {"label_smoothing": 0.1})
    tensor = task.loss(model(x), y, {"label_smoothing": torch.tensor(0.1)})
    torch.testing.assert_close(number, tensor)


def test_every_parameter_learns(task: Task) -> None:
    model = build(task)
    x, y = inputs(task, 64)
    before = task.loss(model.eval()(x), y, {}).mean().detach()
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        task.loss(model(x), y, {}).mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    after = task.loss(model.eval()(x), y, {}).mean().detach()
    assert float(after) < float(before)


def test_double_precision_goes_through(task: Task) -> None:
    model = build(task).double()
    x, y = inputs(task, 4, torch.float64)
    assert task.loss(model(x), y, {}).dtype == torch.float64


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_over_models_gives_each_ones_gradient(task: Task) -> None:
    """In double precision, dropout off, as a population computes it."""
    models = [build(task, seed, dropout=0.0).double() for seed in (0, 1, 2)]
    template = models[0]
    if task.name == "zoo_batch_norm":  # whose training writes buffers: the engine's tests cover it
        models = [model.eval() for model in models]
    smoothing = torch.tensor(0.05, dtype=torch.float64)
    params, buffers = stack_module_state(models)
    x, y = inputs(task, 6, torch.float64)

    def loss(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        output = functional_call(template, (p, b), (x,))
        return task.loss(output, y, {"label_smoothing": smoothing}).mean()

    fused = vmap(grad(loss))(params, buffers)
    for k, model in enumerate(models):
        model.zero_grad()
        task.loss(model(x), y, {"label_smoothing": 0.05}).mean().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(fused[name][k], parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_population_trains_it(name: str, tmp_path: Path) -> None:
    """Through the engine, to all the metrics that a study may name."""
    task = MAKERS[name](tmp_path)
    config = {"optimizer": "adamw", "lr": 3e-3, "batch_size": 16}
    population = Population(task, config, 2, check=False)
    for slot in (0, 1):
        population.load(slot, config, seed=slot, epochs=1.0)
    population.train(32)
    population.evaluate()
    for measured in population.measurements().values():
        assert set(task.metric_names()) <= set(measured)
        assert all(np.isfinite(measured[metric]) for metric in task.metric_names())


@pytest.mark.parametrize("name", BUILT_IN)
def test_dropout_is_a_module_where_there_is_any(name: str, tmp_path: Path) -> None:
    task = MAKERS[name](tmp_path)
    rates = [m.p for m in build(task, dropout=0.25).modules() if isinstance(m, nn.Dropout)]
    assert rates
    assert set(rates) == {0.25}
    assert not [m for m in build(task).modules() if isinstance(m, nn.Dropout)]
    with_it, without = (build(task, dropout=rate).named_parameters() for rate in (0.25, 0.0))
    assert [name for name, _ in with_it] == [name for name, _ in without], "weights go either way"
    with pytest.raises(InvalidInput, match="dropout"):
        build(task, dropout=1.5)


def test_settings(task: Task) -> None:
    config = {name: setting.default for name, setting in task.settings.items()}
    build(task, **config)
    for name, setting in task.settings.items():
        assert setting.doc
        setting.check(f"space.{name}", setting.default)
        for value in illegal(setting):
            with pytest.raises(InvalidInput) as error:
                setting.check(f"space.{name}", value)
            assert error.value.field == f"space.{name}"


def illegal(setting: Setting) -> list[Any]:
    values: list[Any] = [None, "nonsense", [1], float("nan")]
    if setting.low is not None:
        values.append(setting.low - 1)
    if setting.high is not None:
        values.append(setting.high + 1)
    return values


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_default_search_range_builds(name: str, tmp_path: Path) -> None:
    task = MAKERS[name](tmp_path)
    for key, setting in task.settings.items():
        if setting.search is None:
            continue
        search = setting.search
        ends = (
            search["choices"]
            if search["type"] == "categorical"
            else (search["low"], search["high"])
        )
        for value in ends:
            setting.check(key, value)
            build(task, **{key: value})


def test_the_parts_of_digits() -> None:
    parts = tasks.get("digits")().data()
    assert [len(part) for part in (parts.train, parts.valid, parts.test)] == [1079, 359, 359]  # type: ignore[arg-type]  # arrays
    rows = torch.cat([part.x.flatten(1) for part in (parts.train, parts.valid, parts.test)])  # type: ignore[union-attr]  # arrays
    assert len(rows) == 1797
    assert float(rows.max()) == 1.0
