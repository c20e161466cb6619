from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tuner.tasks import zoo
from tuner import tasks
from tuner.errors import InvalidInput
from tuner.protocol import Leased
from tuner.training import Population
from tuner.training.checkpoint import CheckpointStore
from tuner.worker.crew import Crew


def leased(number: int, batch_size: int, **changes: object) -> Leased:
    made = Leased(
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
    return made.model_copy(update=changes)


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.registry, "_entries", {"crew-mlp": zoo.MlpTask})
    monkeypatch.setattr(tasks.registry, "_loaded", True)


def crew(folder: Path, **options: object) -> Crew:
    store = CheckpointStore(folder)
    return Crew(torch.device("cpu"), 2, store, dtype=torch.float64, **options)  # type: ignore[arg-type]  # passed on


def train(mine: Crew) -> None:
    """One step of all, saved."""
    mine.round(lambda: False)
    for held in mine.held.values():
        mine.save(held)


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.safetensors"))


def test_pieces_of_a_long_round_end_where_batches_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training in pieces must not shrink the micro-batch, nor change what is measured."""
    sizes: list[int] = []
    real = Population.micro_batch

    def seen(self: Population, batch_sizes: list[int], position: int = 0) -> int:
        sizes.append(real(self, batch_sizes, position))
        return sizes[-1]

    monkeypatch.setattr(Population, "micro_batch", seen)
    losses = []
    for piece in (32, 4096):
        mine = crew(tmp_path / str(piece))
        monkeypatch.setattr(mine, "_piece", piece)
        for number, batch_size in enumerate((12, 24), start=1):
            assert mine.take(leased(number, batch_size)) is None
        for _ in range(3):
            mine.round(lambda: False)
        reports = list(mine.reports())
        losses.append([m.metrics["val_loss"] for r in reports for m in r.measurements])
        assert [r.outcome for r in reports] == ["complete", "complete"]
        assert len(losses[-1]) == 6
    assert set(sizes) == {12}
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_a_checkpoint_stays_until_the_next_one_is_known(tmp_path: Path) -> None:
    """Whoever is killed between saving and reporting leaves the one that the service knows."""
    mine = crew(tmp_path)
    assert mine.take(leased(1, 12)) is None
    train(mine)
    assert files(tmp_path) == ["study-1/trial-1/a1-s1.safetensors"]
    mine.acknowledged(1)
    train(mine)
    both = ["study-1/trial-1/a1-s1.safetensors", "study-1/trial-1/a1-s2.safetensors"]
    assert files(tmp_path) == both
    other = crew(tmp_path / "other")
    known = next(iter(mine.reports())).checkpoint
    assert known is not None
    before = known.model_copy(update={"uri": known.uri.replace("-s2", "-s1"), "step": 1})
    assert other.take(leased(1, 12, attempt=2, start=1, checkpoint=before)) is None
    assert other.held[1].step == 1
    mine.acknowledged(1)
    assert files(tmp_path) == both[1:]
    mine.drop(1, forget=True)
    assert files(tmp_path) == []


def test_a_lost_trial_leaves_its_files_to_the_next_holder(tmp_path: Path) -> None:
    mine = crew(tmp_path)
    assert mine.take(leased(1, 12)) is None
    train(mine)
    mine.acknowledged(1)
    train(mine)
    mine.drop(1)
    assert len(files(tmp_path)) == 2


def test_a_copy_never_deletes_what_it_was_copied_from(tmp_path: Path) -> None:
    source = crew(tmp_path)
    assert source.take(leased(1, 12)) is None
    train(source)
    checkpoint = source.held[1].checkpoint
    mine = crew(tmp_path)
    assert mine.take(leased(2, 12, start=1, checkpoint=checkpoint)) is None
    train(mine)
    mine.acknowledged(2)
    mine.drop(2, forget=True)
    assert files(tmp_path) == ["study-1/trial-1/a1-s1.safetensors"]


def test_a_long_step_is_saved_in_its_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies there costs seconds of training, and not a number changes."""
    whole, torn, again = (crew(tmp_path / name) for name in ("whole", "torn", "again"))
    torn.save_seconds = 0.0
    for one in (whole, torn):
        assert one.take(leased(1, 12)) is None
    monkeypatch.setattr(torn, "_piece", 32)
    torn.round(lambda: False)
    (report,) = torn.reports()
    assert report.measurements == []
    assert report.checkpoint is not None
    assert report.checkpoint.step == 0
    torn.acknowledged(1)
    assert list(torn.reports()) == []
    assert again.take(leased(1, 12, checkpoint=report.checkpoint)) is None
    slot = next(iter(again.populations.values())).slot(0)
    assert 0 < slot.samples < 1.5 * zoo.TRAIN
    for _ in range(3):
        whole.round(lambda: False)
        again.round(lambda: False)
    losses = [
        [m.metrics["val_loss"] for r in one.reports() for m in r.measurements]
        for one in (whole, again)
    ]
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_an_address_that_nothing_reaches_is_refused() -> None:
    with pytest.raises(InvalidInput, match="checkpoints") as caught:
        CheckpointStore("nowhere://bucket")
    assert caught.value.field == "checkpoints"
