from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.tuner.tasks import zoo
from tuner import tasks
from tuner.protocol import Leased
from tuner.spec import names
from tuner.training.checkpoint import CheckpointStore
from tuner.training.trainer import Trainer
from tuner.worker.crew import AUTOCAST, Crew


def leased(
    number: int, batch_size: int, task: str = "crew-mlp", checkpoint: str | None = None, **more: Any
) -> Leased:
    return Leased(
        trial_id=number,
        study_id=1,
        number=number,
        attempt=1,
        token=str(number),
        task=task,
        task_params={} if checkpoint is None else {"checkpoint": checkpoint},
        config={"optimizer": "sgd", "lr": 0.01, "batch_size": batch_size, **more},
        seed=0,
        data_seed=0,
        start=0,
        until=3,
        max_step=3,
        epochs_per_step=1.5,
        metrics=["val_loss"],
    )


def test_pieces_of_a_long_round_end_where_batches_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training in pieces must not shrink the micro-batch, nor change what is measured."""
    monkeypatch.setattr(tasks.registry, "_entries", {"crew-mlp": zoo.MlpTask})
    monkeypatch.setattr(tasks.registry, "_loaded", True)
    sizes: list[int] = []
    real = Trainer.micro_batch

    def seen(self: Trainer, batch_sizes: list[int], position: int = 0) -> int:
        sizes.append(real(self, batch_sizes, position))
        return sizes[-1]

    monkeypatch.setattr(Trainer, "micro_batch", seen)
    losses = []
    for piece in (32, 4096):
        crew = Crew(
            torch.device("cpu"), 2, CheckpointStore(tmp_path / str(piece)), dtype=torch.float64
        )
        monkeypatch.setattr(crew, "_piece", piece)
        for number, batch_size in enumerate((12, 24), start=1):
            assert crew.take(leased(number, batch_size)) is None
        for _ in range(3):
            crew.round(lambda: False)
        reports = list(crew.reports())
        losses.append([m.metrics["val_loss"] for r in reports for m in r.measurements])
        assert [r.outcome for r in reports] == ["complete", "complete"]
        assert len(losses[-1]) == 6
    assert set(sizes) == {12}
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_fine_tuning_starts_from_weights_and_parts_learn_at_their_own_rate(
    tmp_path: Path,
) -> None:
    """From what a study names to what a slot holds: a frozen body under a head that learns."""
    torch.manual_seed(7)
    trained = tasks.get("digits")().model({}).state_dict()
    save_file(trained, tmp_path / "w.safetensors")
    crew = Crew(torch.device("cpu"), 2, CheckpointStore(tmp_path))
    rates = {"lr_scale.1": 0.0, "lr_scale.3": 0.0}
    for number, more in enumerate([rates, {}], start=1):
        given = leased(number, 32, "digits", str(tmp_path / "w.safetensors"), **more)
        assert crew.take(given) is None
    (population,) = crew.populations.values()
    for slot in (0, 1):
        tensors = population.state_dict(slot)["tensors"]
        for name, before in trained.items():
            assert torch.equal(tensors[f"param.{name}"], before)
    crew.round(lambda: False)
    frozen, free = (population.state_dict(slot)["tensors"] for slot in (0, 1))
    for name, before in trained.items():
        still = name.startswith(("1.", "3."))
        assert torch.equal(frozen[f"param.{name}"], before) == still
        assert not torch.equal(free[f"param.{name}"], before)


def test_precision_is_a_hyperparameter(tmp_path: Path) -> None:
    """Those of one precision train together; the other's numbers are near, and not the same."""
    assert set(AUTOCAST) == set(names.CHOSEN["precision"].choices)
    crew = Crew(torch.device("cpu"), 4, CheckpointStore(tmp_path))
    for number, precision in enumerate(["fp32", "bf16", "bf16", "fp32"], start=1):
        given = leased(number, 64, "digits", lr=0.1, precision=precision)
        assert crew.take(given) is None
    assert [len(p.active) for p in crew.populations.values()] == [2, 2]
    autocast = {p.programs.one.autocast for p in crew.populations.values()}
    assert autocast == {None, torch.bfloat16}
    crew.round(lambda: False)
    full, half = (crew.held[number].news[0].metrics["val_loss"] for number in (1, 2))
    assert full is not None
    assert half == pytest.approx(full, rel=0.05)
    assert half != full
