from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tuner.tasks import zoo
from tuner import tasks
from tuner.protocol import Leased
from tuner.training.checkpoint import CheckpointStore
from tuner.training.trainer import Trainer
from tuner.worker.crew import Crew


def leased(number: int, batch_size: int) -> Leased:
    return Leased(
        trial_id=number,
        study_id=1,
        number=number,
        attempt=1,
        token=str(number),
        task="crew-mlp",
        config={"optimizer": "sgd", "lr": 0.01, "batch_size": batch_size},
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
