"""Fine-tuning starts from the weights in a file, whole or in part."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tuner import tasks
from tuner.errors import InvalidInput
from tuner.tasks.digits import Digits
from tuner.tasks.digits_cnn import DigitsCNN
from tuner.tasks.text import Text
from tuner.tasks.weights import Weights
from tuner.training import Population


def test_every_trial_starts_there(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = Digits().model({"model.hidden": 8})
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    task = tasks.get("digits")(checkpoint=str(tmp_path / "w.safetensors"))  # type: ignore[call-arg]
    for seed in (2, 3):
        torch.manual_seed(seed)
        model = task.model({"model.hidden": 8})
        for name, tensor in trained.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
    assert all(p.requires_grad for p in model.parameters())


def test_a_part_leaves_the_rest_fresh(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = DigitsCNN().model({"model.width": 4}).state_dict()
    body = {name: tensor for name, tensor in trained.items() if name.startswith("features")}
    save_file(body, tmp_path / "body.safetensors")
    task = DigitsCNN(checkpoint=str(tmp_path / "body.safetensors"))
    torch.manual_seed(2)
    model = task.model({"model.width": 4}).state_dict()
    assert body
    for name, tensor in trained.items():
        assert torch.equal(model[name], tensor) == (name in body), name


def test_a_first_loss_of_trained_weights_is_no_yardstick(tmp_path: Path) -> None:
    """Near zero, any search of learning rates soon makes four times as much of it."""
    config = {"optimizer": "sgd", "lr": 0.1, "batch_size": 32, "model.hidden": 8}
    task = Digits()
    population = Population(task, config, 1, check=False)
    population.load(0, config, seed=0, epochs=1.0)
    population.train(320)
    assert population.slot(0).diverged(4.1 * population.slot(0).first_loss)
    save_file(task.model(config).state_dict(), tmp_path / "w.safetensors")
    tuned = Population(Digits(checkpoint=str(tmp_path / "w.safetensors")), config, 1, check=False)
    tuned.load(0, config, seed=0, epochs=1.0)
    tuned.train(320)
    assert not tuned.slot(0).diverged(100.0)
    assert tuned.slot(0).diverged(math.inf)


def test_a_task_of_ones_own_fine_tunes_too(tmp_path: Path) -> None:
    class Own(Digits):
        def __init__(self, body: str) -> None:
            super().__init__()
            self.weights = Weights(body)

    trained = Digits().model({})
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    task = Own(str(tmp_path / "w.safetensors"))
    assert task.pretrained
    assert torch.equal(task.model({}).state_dict()["1.weight"], trained.state_dict()["1.weight"])


def test_it_works_with_a_file_of_text_and_another_precision(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"to be or not to be " * 99)
    config = {"model.width": 8, "model.layers": 1, "model.heads": 2}
    trained = Text(path=str(tmp_path / "a.txt")).model(config).state_dict()
    save_file({k: v.bfloat16() for k, v in trained.items()}, tmp_path / "w.safetensors")
    task = Text(path=str(tmp_path / "a.txt"), checkpoint=str(tmp_path / "w.safetensors"))
    model = task.model(config)
    for name, tensor in trained.items():
        assert torch.equal(model.state_dict()[name], tensor.bfloat16().float()), name


def test_what_does_not_fit(tmp_path: Path) -> None:
    save_file({"1.weight": torch.zeros(3, 3)}, tmp_path / "shape.safetensors")
    save_file({"body.weight": torch.zeros(3, 3)}, tmp_path / "name.safetensors")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04 a pickle is not read")
    (tmp_path / "empty").write_bytes(b"")
    for name, text in {
        "shape.safetensors": r"1\.weight is \(3, 3\), the model's \(64, 64\)",
        "name.safetensors": r"the model has no 'body\.weight'; it has 1\.weight",
        "pickle.pt": "is no safetensors file",
        "empty": "is no safetensors file",
        "absent": "cannot be read",
    }.items():
        with pytest.raises(InvalidInput, match=text) as error:
            Digits(checkpoint=str(tmp_path / name)).model({})
        assert error.value.field == "task.params.checkpoint"
