"""Bytes into windows, windows into pieces, and a model that cannot see ahead."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tuner.errors import InvalidInput
from tuner.tasks import Arrays
from tuner.tasks.text import Text

SHAKESPEARE = Path(__file__).parents[4] / "shared" / "data" / "tinyshakespeare" / "input.txt"
shakespeare = pytest.mark.skipif(
    not SHAKESPEARE.is_file(), reason="tiny Shakespeare is not on this machine"
)


def make(tmp_path: Path, content: bytes = bytes(range(256)) * 8, **params: Any) -> Text:
    (tmp_path / "a.txt").write_bytes(content)
    return Text(path=str(tmp_path / "a.txt"), **params)


def part(task: Text, name: str) -> Arrays:
    samples = getattr(task.data(), name)
    assert isinstance(samples, Arrays)
    return samples


def logits(task: Text, x: Tensor, **config: Any) -> Tensor:
    torch.manual_seed(0)
    model = task.model({"model.width": 16, "model.layers": 1, "model.heads": 2, **config}).eval()
    output: Tensor = model(x).detach()
    return output


def test_windows_are_the_file_in_order(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8
    task = make(tmp_path, content, window=16, valid=0.25, test=0.25)
    sizes = [len(part(task, name)) for name in ("train", "valid", "test")]
    assert sizes == [63, 32, 32]
    x = torch.cat([part(task, name).x for name in ("train", "valid", "test")])
    y = torch.cat([part(task, name).y for name in ("train", "valid", "test")])
    assert bytes(x.flatten().tolist()) == content[: 127 * 16]
    assert bytes(y.flatten().tolist()) == content[1 : 127 * 16 + 1]


def test_no_byte_knows_a_later_one(tmp_path: Path) -> None:
    task = make(tmp_path, window=32)
    x = part(task, "train").x[:1].clone()
    before = logits(task, x, **{"model.sequence": 32})
    x[0, 20] += 1
    after = logits(task, x, **{"model.sequence": 32})
    assert torch.equal(before[0, :20], after[0, :20])
    assert not torch.equal(before[0, 20:], after[0, 20:])


def test_sequence_is_what_a_byte_can_see(tmp_path: Path) -> None:
    """With pieces of 8, a change at byte 3 reaches bytes 3 to 7 and no further."""
    task = make(tmp_path, window=32)
    x = part(task, "train").x[:1].clone()
    before = logits(task, x, **{"model.sequence": 8})
    x[0, 3] += 1
    after = logits(task, x, **{"model.sequence": 8})
    changed = (before != after).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [3, 4, 5, 6, 7]
    assert before.shape == (1, 32, 256)


def test_the_first_loss_is_that_of_a_guess(tmp_path: Path) -> None:
    task = make(tmp_path, window=32)
    x, y = part(task, "train").x, part(task, "train").y
    output = logits(task, x, **{"model.sequence": 16})
    assert float(task.loss(output, y, {}).mean()) == pytest.approx(math.log(256), abs=0.3)
    bits = task.metrics(output, y)["bits_per_byte"]
    torch.testing.assert_close(bits * math.log(2), task.loss(output, y, {}))


@shakespeare
def test_shakespeare_is_learned() -> None:
    """Sixty steps come below what letter frequencies alone give: it looks at the letter before."""
    task = Text(path=str(SHAKESPEARE), window=64)
    assert [len(part(task, name)) for name in ("train", "valid")] == [15_685, 1_743]
    torch.manual_seed(0)
    model = task.model({"model.width": 32, "model.layers": 1, "model.sequence": 32})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train = part(task, "train")
    for rows in torch.randperm(len(train))[: 60 * 32].split(32):
        optimizer.zero_grad()
        task.loss(model(train.x[rows]), train.y[rows], {}).mean().backward()
        optimizer.step()
    valid = part(task, "valid")
    loss = task.loss(model(valid.x[:64]).detach(), valid.y[:64], {}).mean()
    share = train.x.flatten().bincount() / train.x.numel()
    frequencies = -torch.special.xlogy(share, share).sum()
    assert 3.2 < float(frequencies) < 3.4
    assert float(loss) < float(frequencies) - 0.3


@pytest.mark.parametrize(
    ("params", "content", "field"),
    [
        ({"window": 0}, b"a" * 999, "window"),
        ({"window": True}, b"a" * 999, "window"),
        ({"window": 1.5}, b"a" * 999, "window"),
        ({"valid": 1.0}, b"a" * 999, "valid"),
        ({"test": -0.1}, b"a" * 999, "test"),
        ({}, b"", "path"),
        ({}, b"too short", "path"),
        ({"valid": 0.0}, b"a" * 9999, "path"),
    ],
)
def test_refused(tmp_path: Path, params: dict[str, Any], content: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        make(tmp_path, content, **params).data()
    assert error.value.field == f"task.params.{field}"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"task\.params\.path: cannot be read: No such file"):
        Text(path=str(tmp_path / "absent.txt")).data()


@pytest.mark.parametrize(
    "config",
    [
        {"model.width": 30, "model.heads": 4},
        {"model.width": 3, "model.heads": 8},
        {"model.sequence": 512},
        {"model.sequence": 1},
    ],
)
def test_any_two_numbers_go_together(tmp_path: Path, config: dict[str, Any]) -> None:
    task = make(tmp_path, window=32)
    assert logits(task, part(task, "train").x[:2], **config).shape == (2, 32, 256)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"model.sequence": 48}, "model.sequence"),
        ({"dropout": -0.5}, "dropout"),
    ],
)
def test_a_structure_that_cannot_be(tmp_path: Path, config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        make(tmp_path).model(config)
    assert error.value.field == field
