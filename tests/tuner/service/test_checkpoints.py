from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tuner.service.simulation import Clock, Trainer, submit
from tuner import service
from tuner.protocol import Checkpoint, Report
from tuner.service import Context, StudyPatch
from tuner.service.checkpoints import AGAIN, LATE
from tuner.storage import checkpoints as stored

HALVING = {"name": "asha"}


class Saver(Trainer):
    """A worker that writes a file for each checkpoint that it tells of, and never deletes one."""

    folder: Path
    scheme: str = ""

    def next_report(self, **changes: object) -> Report:
        report = super().next_report(**changes)
        slots = []
        for slot in report.slots:
            leased = self.held[slot.trial_id].leased
            step = slot.measurements[0].step
            name = f"study-{leased.study_id}/trial-{leased.number}/a{leased.attempt}-s{step}"
            file = self.folder / f"{name}.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"weights")
            checkpoint = Checkpoint(uri=f"{self.scheme}{file}", step=step)
            slots.append(slot.model_copy(update={"checkpoint": checkpoint}))
        return report.model_copy(update={"slots": slots})


def saver(ctx: Context, folder: Path, scheme: str = "") -> Saver:
    worker = Saver(ctx)
    worker.folder, worker.scheme = folder, scheme
    return worker


def uris(ctx: Context, study_id: int) -> list[str]:
    with ctx.db.session() as session:
        return [saved.uri for saved in stored.of_study(session, study_id)]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_ended_study_keeps_no_checkpoints(ctx: Context, tmp_path: Path, scheme: str) -> None:
    study = submit(ctx, pruner=HALVING, budget={"trials": 8, "epochs": 4})
    worker = saver(ctx, tmp_path, scheme)
    worker.lease()
    worker.round()
    running = uris(ctx, study.id)
    service.tick(ctx)
    assert running
    assert uris(ctx, study.id) == running
    assert all(Path(uri.removeprefix(scheme)).exists() for uri in running)
    worker.work()
    last = uris(ctx, study.id)
    before = [(t.id, t.state, t.value) for t in service.list_trials(ctx, study.id).items]
    assert {state for _, state, _ in before} == {"complete", "pruned"}
    service.tick(ctx)
    assert uris(ctx, study.id) == []
    assert not any(Path(uri.removeprefix(scheme)).exists() for uri in last)
    after = [(t.id, t.state, t.value) for t in service.list_trials(ctx, study.id).items]
    assert after == before


def test_a_study_that_ends_later_is_swept_too(ctx: Context, tmp_path: Path, clock: Clock) -> None:
    """Only studies that ended since the last round are looked at, but none is missed."""
    worker = saver(ctx, tmp_path)
    for name in ("first", "second"):
        study = submit(ctx, name, budget={"trials": 2, "epochs": 2})
        worker.work()
        assert uris(ctx, study.id)
        service.tick(ctx)
        assert uris(ctx, study.id) == []
        clock.advance(2 * LATE.total_seconds())


def test_another_process_sweeps_what_was_left(ctx: Context, tmp_path: Path, clock: Clock) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 2})
    saver(ctx, tmp_path).work()
    last = uris(ctx, study.id)
    clock.advance(10_000)
    service.tick(Context(ctx.db, clock))
    assert uris(ctx, study.id) == []
    assert len(last) == 2
    assert not any(Path(uri).exists() for uri in last)


def test_more_than_one_batch(ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.service.checkpoints.BATCH", 3)
    study = submit(ctx, budget={"trials": 8, "epochs": 1})
    saver(ctx, tmp_path).work()
    assert len(uris(ctx, study.id)) == 8
    service.tick(ctx)
    assert uris(ctx, study.id) == []


def test_a_deleted_study_takes_its_checkpoints_along(ctx: Context, tmp_path: Path) -> None:
    study = submit(ctx)
    worker = saver(ctx, tmp_path)
    worker.lease()
    worker.round()
    last = uris(ctx, study.id)
    assert last
    service.delete_study(ctx, study.id)
    assert not any(Path(uri).exists() for uri in last)


def test_files_out_of_reach_are_logged_and_forgotten(
    ctx: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 1})
    worker = saver(ctx, tmp_path, "nowhere://")
    worker.lease()
    worker.work()
    with caplog.at_level(logging.WARNING, "tuner.service.checkpoints"):
        service.tick(ctx)
    assert [record for record in caplog.records if "was not deleted" in record.message]
    assert uris(ctx, study.id) == []


def study_folder(folder: Path, study_id: int) -> Path:
    return folder / f"study-{study_id}"


def untold(folder: Path, study_id: int, number: int, name: str) -> None:
    """A worker saves, and dies before it can tell."""
    path = study_folder(folder, study_id) / f"trial-{number}"
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{name}.safetensors").write_bytes(b"weights")
    (path / f"{name}0.safetensors.{'0' * 32}.partial").write_bytes(b"half")


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("end", [service.stop_study, service.cancel_study, service.delete_study])
def test_nothing_is_left_of_a_study(
    ctx: Context,
    tmp_path: Path,
    clock: Clock,
    told: bool,
    end: Callable[[Context, int], object],
) -> None:
    """What nobody was told of goes too, and what a worker saves before it hears of the end."""
    if not told:  # then nobody but the server knows where checkpoints are
        ctx = replace(ctx, settings=replace(ctx.settings, checkpoints=str(tmp_path)))
    study = submit(ctx, budget={"trials": 4, "epochs": 3})
    other = submit(ctx, "other")
    worker = saver(ctx, tmp_path) if told else Trainer(ctx)
    trials = worker.lease()
    worker.round()
    folder = study_folder(tmp_path, study.id)
    for trial in trials:
        untold(tmp_path, study.id, trial.number, "a1-s2")
    untold(tmp_path, other.id, 0, "a1-s1")
    end(ctx, study.id)
    if end is service.stop_study:
        while worker.held:
            worker.deliver(worker.next_report(refill=-4))
    service.tick(ctx)
    assert not folder.exists()
    untold(tmp_path, study.id, 0, "a1-s3")
    clock.run(AGAIN.total_seconds() + 5, ctx)
    assert not folder.exists()
    assert study_folder(tmp_path, other.id).exists()
    assert ctx.leftovers == {}


def test_a_study_that_goes_on_keeps_what_is_saved_meanwhile(
    ctx: Context, tmp_path: Path, clock: Clock
) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 2})
    worker = saver(ctx, tmp_path)
    worker.work()
    service.tick(ctx)
    more = StudyPatch.model_validate({"budget": {"trials": 4, "epochs": 2}})
    service.update_study(ctx, study.id, more)
    worker.lease()
    worker.round()
    saved = uris(ctx, study.id)
    assert len(saved) == 2
    clock.run(AGAIN.total_seconds() + 5, ctx)
    assert all(Path(uri).exists() for uri in saved)


def test_what_a_trial_had_saved_whose_workers_died_stays_until_its_study_is_deleted(
    ctx: Context, tmp_path: Path, clock: Clock
) -> None:
    study = submit(ctx, budget={"trials": 2, "epochs": 2})
    worker = saver(ctx, tmp_path)
    lost, other = worker.lease(2)
    worker.round()
    for _ in range(ctx.settings.max_attempts):
        worker.held.pop(lost.trial_id)
        while other.trial_id in worker.held:
            worker.deliver(worker.next_report(refill=-4))
        clock.run(31, ctx)
        worker.lease()
    clock.run(AGAIN.total_seconds() + 40, ctx)
    assert service.show_study(ctx, study.id).state == "completed"
    trial = service.show_trial(ctx, lost.trial_id)
    assert (trial.state, trial.reason) == ("fail", "lease_expired")
    assert trial.checkpoint is not None
    assert Path(trial.checkpoint.uri).exists()
    (left,) = study_folder(tmp_path, study.id).iterdir()
    assert left.name == f"trial-{lost.number}"
    service.delete_study(ctx, study.id)
    assert not study_folder(tmp_path, study.id).exists()


@pytest.mark.parametrize("other", ["", "notes.txt"])
def test_the_folder_of_a_script_goes_whole_unless_there_is_more_in_it(
    ctx: Context, tmp_path: Path, other: str
) -> None:
    study = submit(ctx, budget={"trials": 1, "epochs": 1})
    worker = Trainer(ctx, slots=1)
    (leased,) = worker.lease()
    folder = tmp_path / f"study-{study.id}/trial-{leased.number}"
    for name in ("a1/weights/part-0", "a2/weights/part-0", "lock", "trial.json", other or "a1/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("content")
    report = worker.next_report()
    saved = Checkpoint(uri=(folder / "a2").as_uri(), step=1)
    slot = report.slots[0].model_copy(update={"checkpoint": saved})
    worker.deliver(report.model_copy(update={"slots": [slot]}))
    service.tick(ctx)
    assert folder.exists() == bool(other)
    assert not (folder / "a2").exists()
    assert uris(ctx, study.id) == []


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "study-{study}/trial-{number}/a1/notes.txt",
        "study-{study}/trial-999/a1-s1.safetensors",
        "study-999/trial-{number}/a1-s1.safetensors",
        "study-{study}/trial-{number}/a1-s1.safetensors.txt",
        "study-{study}/trial-{number}/../../victim/study-{study}/trial-{number}/a1-s1.safetensors",
    ],
)
def test_a_worker_cannot_have_other_files_deleted(ctx: Context, tmp_path: Path, name: str) -> None:
    study = submit(ctx, budget={"trials": 1, "epochs": 1})
    worker = Trainer(ctx, slots=1)
    (leased,) = worker.lease()
    file = tmp_path / name.format(study=study.id, number=leased.number)
    (tmp_path / f"study-{study.id}/trial-{leased.number}").mkdir(parents=True)
    file.parent.resolve().mkdir(parents=True, exist_ok=True)
    file.write_text("precious")
    report = worker.next_report()
    slot = report.slots[0].model_copy(update={"checkpoint": Checkpoint(uri=str(file), step=1)})
    worker.deliver(report.model_copy(update={"slots": [slot]}))
    assert service.show_study(ctx, study.id).state == "completed"
    service.tick(ctx)
    assert file.read_text() == "precious"
    assert uris(ctx, study.id) == []
