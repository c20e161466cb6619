"""Fine-tuning starts from the weights in a file, whole or in part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tuner import tasks
from tuner.errors import InvalidInput
from tuner.tasks.digits import Digits
from tuner.tasks.digits_cnn import DigitsCNN
from tuner.tasks.text import Text


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
