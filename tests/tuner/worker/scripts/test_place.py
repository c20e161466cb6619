"""A trial's own folder: it survives a retry, is one run's at a time, and is nobody else's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tuner.protocol import Leased
from tuner.worker.scripts.place import Place


def leased(**changes: Any) -> Leased:
    values = {
        "trial_id": 7, "study_id": 1, "number": 3, "attempt": 1, "token": "t", "task": "bowl",
        "config": {"lr": 0.1}, "seed": 0, "data_seed": 0, "start": 0, "until": 1, "max_step": 9,
        "metrics": ["loss"],
    }  # fmt: skip
    return Leased.model_validate({**values, **changes})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path, leased())
    made.folder.mkdir(parents=True)
    made.prepare()
    return made


def test_another_attempt_finds_what_the_last_one_saved(place: Place, tmp_path: Path) -> None:
    (place.own / "weights").write_text("1")
    second = Place(tmp_path, leased(attempt=2))
    second.prepare()
    assert (second.own / "weights").read_text() == "1"
    assert not place.own.exists(), "the first attempt can write there no more"
    (second.own / "weights").write_text("2")
    fourth = Place(tmp_path, leased(attempt=4))
    fourth.prepare()
    assert (fourth.own / "weights").read_text() == "2"


def test_the_same_attempt_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    (place.own / "weights").write_text("1")
    Place(tmp_path, leased(start=4, until=8)).prepare()
    assert (place.own / "weights").read_text() == "1"


@pytest.mark.parametrize(
    "changes", [{"config": {"lr": 0.2}}, {"seed": 1}, {"task": "other"}], ids=str
)
@pytest.mark.parametrize("attempt", [1, 2])
def test_what_another_trial_left_there_is_removed(
    place: Place, tmp_path: Path, changes: dict[str, Any], attempt: int
) -> None:
    """A new database counts from 1 again."""
    (place.own / "weights").write_text("a stranger's")
    other = Place(tmp_path, leased(attempt=attempt, **changes))
    other.prepare()
    assert list(other.own.iterdir()) == []


def test_one_run_at_a_time(place: Place, tmp_path: Path) -> None:
    lock = place.lock()
    assert lock is not None
    assert place.lock() is None
    assert Place(tmp_path, leased(attempt=2)).lock() is None
    os.close(lock)
    again = place.lock()
    assert again is not None
    os.close(again)


def test_there_is_a_checkpoint_once_something_was_saved(place: Place) -> None:
    assert place.checkpoint(1) is None
    (place.own / "weights").write_text("1")
    saved = place.checkpoint(2)
    assert saved is not None
    assert (saved.step, saved.uri) == (2, f"file://{place.own}")
    place.forget()
    assert place.checkpoint(3) is None
    assert not place.folder.exists()
