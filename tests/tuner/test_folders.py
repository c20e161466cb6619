from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tuner import folders

OURS = [
    "a1-s3.safetensors",
    "a2-s4.safetensors",
    f"a2-s5.safetensors.{uuid.uuid4().hex}.partial",
    "a3/weights/part-0",
    "lock",
    "trial.json",
]
THEIRS = ["notes.txt", "a1-s3.safetensors.bak", "best/weights", "a1x"]


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "file" else f"memory://{uuid.uuid4().hex}/root"


def put(root: str, *names: str) -> None:
    fs, path = fsspec.core.url_to_fs(root)
    for name in names:
        fs.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{path}/{name}", b"content")


def there(root: str) -> list[str]:
    """Files and empty folders."""
    fs, path = fsspec.core.url_to_fs(root)
    found: dict[str, Any] = fs.find(path, withdirs=True, detail=True)
    names = {name.removeprefix(path).strip("/"): info["type"] for name, info in found.items()}
    return sorted(n for n in names if n and not any(m.startswith(f"{n}/") for m in names))


def test_names_are_those_that_workers_give() -> None:
    assert folders.of_trial(3, 7) == "study-3/trial-7"
    for name in ("a1-s3.safetensors", "a12"):
        found = folders.holding(f"s3://bucket/root/study-3/trial-7/{name}", 3, 7)
        assert found == ("s3://bucket/root", "s3://bucket/root/study-3/trial-7")


@pytest.mark.parametrize(
    "uri",
    [
        "/root/study-3/trial-8/a1",
        "/root/study-33/trial-7/a1",
        "/root/study-3/trial-7/notes.txt",
        "/root/study-3/trial-7/a1/notes",
        "/root/../study-3/trial-7/a1",
        "/study-3/trial-7/a1",
        "file:///study-3/trial-7/a1",
        "s3://study-3/trial-7/a1",
        "study-3/trial-7/a1",
    ],
)
def test_other_addresses_are_no_trials(uri: str) -> None:
    assert folders.holding(uri, 3, 7) is None


def test_a_folder_goes_with_all_that_is_ours(root: str) -> None:
    put(root, *(f"study-1/trial-7/{name}" for name in OURS), "study-1/trial-77/a1-s1.safetensors")
    folders.clear(f"{root}/study-1/trial-7")
    folders.clear(f"{root}/study-1/trial-7")
    assert there(root) == ["study-1/trial-77/a1-s1.safetensors"]


def test_what_is_not_ours_stays(root: str) -> None:
    put(root, *(f"study-1/trial-7/{name}" for name in (*OURS, *THEIRS)))
    folders.clear(f"{root}/study-1/trial-7")
    assert there(root) == sorted(f"study-1/trial-7/{name}" for name in THEIRS)


def test_the_folders_of_studies_go_but_for_what_is_kept(root: str) -> None:
    for study in (1, 2, 12):
        put(root, *(f"study-{study}/trial-{number}/a1-s1.safetensors" for number in (0, 1)))
    put(root, "study-2/readme", "other/a1")
    folders.clear_studies(root, {1: (), 2: (1,), 3: ()})
    assert there(root) == [
        "other/a1",
        "study-12/trial-0/a1-s1.safetensors",
        "study-12/trial-1/a1-s1.safetensors",
        "study-2/readme",
        "study-2/trial-1/a1-s1.safetensors",
    ]
    folders.clear_studies(f"{root}/nowhere", {1: ()})
