from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.tuner.tasks import zoo
from tuner.errors import InvalidInput, NotFound
from tuner.training.checkpoint import CheckpointStore, from_bytes, to_bytes
from tuner.training.population import Population

CONFIG = {"optimizer": "adamw", "lr": 1e-2, "batch_size": 10, "schedule": "plateau"}


def trained(samples: int) -> Population:
    pop = Population(zoo.DropoutTask(), CONFIG, 2, dtype=torch.float64, check=False)
    pop.load(0, CONFIG, 3, epochs=4, data_seed=5)
    pop.train(samples)
    return pop


@pytest.mark.parametrize("root", ["{tmp}/here", "memory://checkpoints"])
def test_a_saved_trial_goes_on_to_the_same_numbers(tmp_path: Path, root: str) -> None:
    store = CheckpointStore(root.format(tmp=tmp_path))
    first = trained(107)  # in the middle of a batch, in the second epoch
    first.evaluate()
    uri = store.save("study-1/trial-0/a1-s1", first.state_dict(0))
    second = Population(zoo.DropoutTask(), CONFIG, 3, dtype=torch.float64, check=False)
    second.load_state_dict(store.load(uri), 2)
    for pop in (first, second):
        pop.train(4 * zoo.TRAIN - 107)
    expected = first.state_dict(0)
    found = second.state_dict(2)
    for name, tensor in expected["tensors"].items():
        torch.testing.assert_close(found["tensors"][name], tensor, rtol=1e-12, atol=1e-15)
    for name, value in expected["progress"].items():
        if name not in ("seconds", "noise", "loss_sum", "grad_norm"):
            assert found["progress"][name] == value
    store.delete(uri)
    store.delete(uri)
    with pytest.raises(NotFound):
        store.load(uri)


def test_nothing_but_tensors_and_json_is_read() -> None:
    state = trained(10).state_dict(0)
    state["progress"]["grad_norm"] = math.nan
    again = from_bytes(to_bytes(state))
    assert again["config"] == CONFIG
    assert math.isnan(again["progress"]["grad_norm"])
    with pytest.raises(ValueError, match="not a checkpoint"):
        from_bytes(b"\x80\x04not safetensors")
    with pytest.raises(ValueError, match="format"):
        from_bytes(save({"x": torch.zeros(1)}))


def test_an_address_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    for root in ("nothing://bucket/x", "s3://bucket/x"):  # its package is not installed here
        with pytest.raises(InvalidInput, match="cannot be used") as caught:
            CheckpointStore(root)
        assert caught.value.field == "checkpoints"
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written to"):
        CheckpointStore(tmp_path / "file").check()
    store = CheckpointStore((tmp_path / "new").as_uri())
    store.check()
    assert store.folder == tmp_path / "new"
    assert list(store.folder.iterdir()) == []
    assert CheckpointStore("memory://x").folder is None
    with pytest.raises(NotFound):
        store.load("nothing://bucket/x")
    store.delete("nothing://bucket/x")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    state = trained(10).state_dict(0)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tuner.training.checkpoint.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        store.save("a", state)
    assert list(tmp_path.iterdir()) == []
