from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.tuner.tasks import zoo
from tuner import tasks
from tuner.errors import InvalidInput
from tuner.protocol import Leased
from tuner.spec import names
from tuner.tasks import Config
from tuner.training.checkpoint import CheckpointStore
from tuner.training.trainer import Trainer
from tuner.worker.crew import AUTOCAST, Crew


def leased(
    number: int, batch_size: int, config: Mapping[str, Any] = MappingProxyType({}), **changes: Any
) -> Leased:
    made = Leased(
        trial_id=number,
        study_id=1,
        number=number,
        attempt=1,
        token=str(number),
        task="crew-mlp",
        config={"optimizer": "sgd", "lr": 0.01, "batch_size": batch_size, **config},
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
    known = dict(tasks.registry.items())
    monkeypatch.setattr(tasks.registry, "_entries", {**known, "crew-mlp": zoo.MlpTask})


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
    real = Trainer.micro_batch

    def seen(self: Trainer, batch_sizes: list[int], position: int = 0) -> int:
        sizes.append(real(self, batch_sizes, position))
        return sizes[-1]

    monkeypatch.setattr(Trainer, "micro_batch", seen)
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
    mine.heard(1)
    train(mine)
    both = ["study-1/trial-1/a1-s1.safetensors", "study-1/trial-1/a1-s2.safetensors"]
    assert files(tmp_path) == both
    other = crew(tmp_path / "other")
    known = next(iter(mine.reports())).checkpoint
    assert known is not None
    before = known.model_copy(update={"uri": known.uri.replace("-s2", "-s1"), "step": 1})
    assert other.take(leased(1, 12, attempt=2, start=1, checkpoint=before)) is None
    assert other.held[1].step == 1
    mine.heard(1)
    assert files(tmp_path) == both[1:]
    mine.drop(1, forget=True)
    assert files(tmp_path) == []


@pytest.mark.parametrize("place", ["tuner.training.steps.apply_", "tuner.training.rows.Rows.start"])
def test_memory_that_is_full_is_told_apart_from_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Wherever it is: in a step, or for a new trial. The service tries it once more."""
    mine = crew(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(place, full)
    refused = mine.take(leased(1, 12))
    if refused is None:
        mine.round(lambda: False)
        (refused,) = mine.reports()
    assert (refused.outcome, refused.reason) == ("fail", "oom")


def test_data_that_no_trial_needs_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the data used last: the next trial of its study may come at any moment."""
    monkeypatch.setattr(
        tasks.registry, "_entries", dict.fromkeys(("one", "two", "three"), zoo.MlpTask)
    )
    mine = crew(tmp_path)
    opened = []
    for number, task in enumerate(("one", "two", "three"), start=1):
        trial = leased(number, 12, task=task, study_id=number)
        for _ in range(2):  # as it is set aside at a rung, and taken up
            assert mine.take(trial) is None
            opened.append(mine.opened(trial)[1])
            mine.drop(number)
        assert opened[-1] is opened[-2]
        assert [key[0] for key in mine.populations] == [number]
        assert list(mine._tasks) == [f"{task} []"]


def test_device_seconds_go_on_from_what_the_trial_has_had(tmp_path: Path) -> None:
    """Not from its checkpoint's, which may be a copy of another trial's."""
    mine = crew(tmp_path)
    assert mine.take(leased(1, 12, device_seconds=1000.0)) is None
    train(mine)
    (parent,) = mine.reports()
    assert parent.measurements[0].seconds is not None
    assert parent.measurements[0].seconds > 1000
    copy = leased(2, 12, start=1, checkpoint=parent.checkpoint, device_seconds=10.0)
    assert mine.take(copy) is None
    mine.round(lambda: False)
    (seconds,) = [m.seconds for m in mine.held[2].news]
    assert seconds is not None
    assert 10 < seconds < 1000


@pytest.mark.parametrize("root", ["{tmp}/here", "memory://crew-{tmp}"])
def test_nothing_is_left_of_a_trial_that_ends(tmp_path: Path, root: str) -> None:
    """Neither what a worker that died had saved without telling of it, nor the folder."""
    store = CheckpointStore(root.format(tmp=tmp_path))
    dead, mine = (Crew(torch.device("cpu"), 2, store, dtype=torch.float64) for _ in range(2))
    assert dead.take(leased(1, 12)) is None
    train(dead)
    folder = f"{store.path}/study-1/trial-1"
    store.fs.pipe_file(f"{folder}/a1-s2.safetensors.{'0' * 32}.partial", b"half")
    assert mine.take(leased(1, 12, attempt=2)) is None
    train(mine)
    mine.heard(1)
    assert len(store.fs.ls(folder)) == 3
    mine.drop(1, forget=True)
    assert not store.fs.exists(folder)


def test_a_lost_trial_leaves_its_files_to_the_next_holder(tmp_path: Path) -> None:
    mine = crew(tmp_path)
    assert mine.take(leased(1, 12)) is None
    train(mine)
    mine.heard(1)
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
    mine.heard(2)
    mine.drop(2, forget=True)
    assert files(tmp_path) == ["study-1/trial-1/a1-s1.safetensors"]


def test_a_copy_drops_at_its_own_rate_also_where_there_is_none(tmp_path: Path) -> None:
    """A rate of 0 is another structure, so another population; weights go there and back."""
    mine = crew(tmp_path)
    mine.slots = 4
    parents = {1: None, 2: 1, 3: 1, 4: 3}
    rates = {1: 0.1, 2: 0.3, 3: 0.0, 4: 0.2}
    for number, parent in parents.items():
        checkpoint = None if parent is None else mine.held[parent].checkpoint
        given = leased(
            number,
            64,
            {"dropout": rates[number]},
            task="digits",
            start=int(parent is not None),
            checkpoint=checkpoint,
        )
        assert mine.take(given) is None
        if number in (1, 3):
            train(mine)
    for number, rate in rates.items():
        held = mine.held[number]
        tensors = mine.populations[held.key].state_dict(held.slot)["tensors"]
        found = {round(float(v), 6) for name, v in tensors.items() if name.startswith("buffer.")}
        assert found == ({rate} if rate else set())
    assert len(mine.populations) == 2


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
    assert 0 < (report.checkpoint.samples or 0) < zoo.TRAIN
    torn.heard(1)
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


def test_fine_tuning_starts_from_weights_and_parts_learn_at_their_own_rate(
    tmp_path: Path,
) -> None:
    """From what a study names to what a slot holds: a frozen body under a head that learns."""
    torch.manual_seed(7)
    trained = tasks.get("digits")().model({}).state_dict()
    save_file(trained, tmp_path / "w.safetensors")
    crew = Crew(torch.device("cpu"), 2, CheckpointStore(tmp_path))
    rates = {"lr_scale.1": 0.0, "lr_scale.3": 0.0}
    params = {"checkpoint": str(tmp_path / "w.safetensors")}
    for number, more in enumerate([rates, {}], start=1):
        given = leased(number, 32, more, task="digits", task_params=params)
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


def test_why_trials_train_apart_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Keeping(zoo.MlpTask):
        def model(self, config: Config) -> nn.Module:
            model = super().model(config)
            model.lr = config["lr"]
            return model

    monkeypatch.setattr(tasks.registry, "_entries", {"crew-mlp": Keeping})
    mine = crew(tmp_path)
    with caplog.at_level("INFO", "tuner.worker.crew"):
        for number, rate in enumerate((0.5, 0.5, 0.25)):
            assert mine.take(leased(number, 8, {"lr": rate})) is None
    assert [len(population.active) for population in mine.populations.values()] == [2, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "trial 2 does not train with others: lr is 0.25, not 0.5"
    ]


def test_precision_is_a_hyperparameter(tmp_path: Path) -> None:
    """Those of one precision train together; the other's numbers are near, and not the same."""
    assert set(AUTOCAST) == set(names.CHOSEN["precision"].choices)
    crew = Crew(torch.device("cpu"), 4, CheckpointStore(tmp_path))
    for number, precision in enumerate(["fp32", "bf16", "bf16", "fp32"], start=1):
        given = leased(number, 64, {"lr": 0.1, "precision": precision}, task="digits")
        assert crew.take(given) is None
    assert [len(p.active) for p in crew.populations.values()] == [2, 2]
    autocast = {p.programs.one.autocast for p in crew.populations.values()}
    assert autocast == {None, torch.bfloat16}
    crew.round(lambda: False)
    full, half = (crew.held[number].news[0].metrics["val_loss"] for number in (1, 2))
    assert full is not None
    assert half == pytest.approx(full, rel=0.05)
    assert half != full
