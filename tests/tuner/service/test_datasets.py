"""Datasets: what is taken, kept once, refused and removed."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import func, select, text

from tests.installation import until
from tests.tuner.service.simulation import spec
from tuner import service
from tuner.errors import Conflict, InvalidInput, NotFound, TooLarge, Unavailable, UnknownName
from tuner.protocol import LeaseRequest, WorkerHello
from tuner.service import datasets
from tuner.service.context import Context, ServiceSettings
from tuner.service.datasets import DatasetView
from tuner.spec import StudySpec
from tuner.storage import Database
from tuner.storage import datasets as stored
from tuner.storage.models import Dataset

CSV = b"age,kind,target\n1,a,0.5\n2,b,0.25\n"


@pytest.fixture
def ctx(database: Database, tmp_path: Path) -> Context:
    return Context(database, settings=ServiceSettings(home=tmp_path / "home"))


def files(ctx: Context) -> list[str]:
    folder = ctx.settings.home / "datasets"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_table_is_kept_under_its_checksum(ctx: Context) -> None:
    made = datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv", actor="ada")
    assert made.sha256 == hashlib.sha256(CSV).hexdigest()
    assert (made.rows, made.size_bytes, made.owner) == (2, len(CSV), "ada")
    assert made.columns == {"age": "int64", "kind": "string", "target": "double"}
    assert datasets.dataset_file(ctx, made.sha256).read_bytes() == CSV
    assert made.reference == "dataset:people"
    assert datasets.show_dataset(ctx, "people") == datasets.show_dataset(ctx, made.id) == made
    assert datasets.list_datasets(ctx) == [made]


def test_parquet_is_taken_too(ctx: Context) -> None:
    content = io.BytesIO()
    pd.DataFrame({"x": [1.0, 2.0, 3.0]}).to_parquet(content)
    content.seek(0)
    made = datasets.add_dataset(ctx, "xs", content, format="parquet")
    assert (made.rows, made.columns) == (3, {"x": "double"})
    path = datasets.dataset_file(ctx, made.sha256)
    assert pd.read_parquet(path)["x"].tolist() == [1.0, 2.0, 3.0]


def test_arrays_are_taken_too(ctx: Context) -> None:
    content = io.BytesIO()
    x = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    np.savez_compressed(content, x_train=x, y_train=np.arange(6), names=np.array(["a", "bc"]))
    content.seek(0)
    made = datasets.add_dataset(ctx, "pictures", content, format="npz")
    assert made.rows == 6
    assert made.columns == {
        "x_train": "uint8 [6, 2, 2]",
        "y_train": "int64 [6]",
        "names": "<U2 [2]",
    }
    with np.load(datasets.dataset_file(ctx, made.sha256), allow_pickle=False) as held:
        assert (held["x_train"] == x).all()


@pytest.mark.parametrize("left", [None, b"", CSV[:9]])
def test_the_same_again_brings_its_file_back(ctx: Context, left: bytes | None) -> None:
    """A disk was lost, or filled up: whoever has the content uploads it again."""
    made = datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv")
    path = datasets.dataset_file(ctx, made.sha256)
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    assert datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv") == made
    assert datasets.dataset_file(ctx, made.sha256).read_bytes() == CSV


def test_the_same_again_changes_nothing(ctx: Context) -> None:
    first = datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv")
    assert datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv") == first
    assert files(ctx) == [f"{first.sha256}.csv"]


def test_a_name_is_one_content(ctx: Context) -> None:
    datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv")
    with pytest.raises(Conflict):
        datasets.add_dataset(ctx, "people", io.BytesIO(CSV + b"3,c,1\n"), format="csv")
    assert len(files(ctx)) == 1


def until_one_waits(ctx: Context) -> None:
    """Until a transaction waits for a lock of another one."""
    waiting = (
        select(func.count())
        .where(text("wait_event_type = 'Lock'"))
        .select_from(text("pg_stat_activity"))
    )

    def one() -> bool:
        with ctx.db.session() as session:  # one transaction sees the same all the time
            return bool(session.scalar(waiting))

    until(one, "the deletion to wait")


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_file_stays_for_a_name_that_another_server_is_adding(ctx: Context) -> None:
    made = datasets.add_dataset(ctx, "first", io.BytesIO(CSV), format="csv")
    with ThreadPoolExecutor() as threads:
        with ctx.db.write() as adding:  # as add_dataset does, and has not committed yet
            stored.lock_content(adding, made.sha256)
            values = {"name": "second", "format": "csv", "sha256": made.sha256, "summary": {}}
            stored.add(adding, Dataset(**values, size_bytes=1, created_at=ctx.now()))
            deleting = threads.submit(datasets.delete_dataset, ctx, "first")
            until_one_waits(ctx)
        deleting.result(60)
    assert datasets.dataset_file(ctx, made.sha256).read_bytes() == CSV


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_one_name_added_and_deleted_at_once_waits_in_one_order(ctx: Context) -> None:
    made = datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv")
    with ThreadPoolExecutor() as threads:
        with ctx.db.write() as adding:
            stored.lock_content(adding, made.sha256)
            deleting = threads.submit(datasets.delete_dataset, ctx, "people")
            until_one_waits(ctx)
            assert stored.by_name(adding, "people", lock=True) is not None
        deleting.result(60)
    assert datasets.list_datasets(ctx) == []


def test_a_file_goes_with_its_last_name(ctx: Context) -> None:
    first = datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv")
    second = datasets.add_dataset(ctx, "the same people", io.BytesIO(CSV), format="csv")
    assert first.sha256 == second.sha256
    datasets.delete_dataset(ctx, "people")
    assert datasets.dataset_file(ctx, second.sha256).exists()
    datasets.delete_dataset(ctx, second.id)
    assert files(ctx) == []
    with pytest.raises(NotFound):
        datasets.delete_dataset(ctx, "people")
    with pytest.raises(NotFound):
        datasets.show_dataset(ctx, first.id)


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (b"", "csv"),
        (b"a,b\n", "csv"),
        (b"a,b\n1,2\n3\n", "csv"),
        (b"a,a\n1,2\n", "csv"),
        (b"\x00\xff\xfe\x80,\xff\n\xff,\xff\n", "csv"),
        (CSV, "parquet"),
        (b"", "parquet"),
    ],
    ids=str,
)
def test_what_is_no_table_leaves_nothing(ctx: Context, content: bytes, format: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        datasets.add_dataset(ctx, "people", io.BytesIO(content), format=format)
    assert caught.value.field == "content"
    assert files(ctx) == []
    assert datasets.list_datasets(ctx) == []


@pytest.mark.parametrize(
    "name",
    ["", " ", "a\nb", "nul\x00", "x" * 256, "../../etc/passwd", "a/b", "..", ".x", "a\\b", "-rf"],
    ids=repr,
)
def test_a_wrong_name_is_refused(ctx: Context, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        datasets.add_dataset(ctx, name, io.BytesIO(CSV), format="csv")
    assert caught.value.field == "name"
    assert files(ctx) == []


@pytest.mark.parametrize("name", ["Iris 2.0", "Straße_7", "数据", "a..b"])
def test_names_in_any_language_are_fine(ctx: Context, name: str) -> None:
    assert datasets.add_dataset(ctx, name, io.BytesIO(CSV), format="csv").name == name


def test_an_unknown_format_is_refused(ctx: Context) -> None:
    with pytest.raises(UnknownName, match="csv, parquet, npz"):
        datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="xls")


def test_a_file_above_the_limit_is_refused(ctx: Context) -> None:
    with pytest.raises(TooLarge):
        datasets.add_dataset(ctx, "p", io.BytesIO(CSV), format="csv", max_bytes=len(CSV) - 1)
    assert files(ctx) == []
    datasets.add_dataset(ctx, "p", io.BytesIO(CSV), format="csv", max_bytes=len(CSV))


def test_what_a_killed_server_left_is_cleared(ctx: Context) -> None:
    folder = ctx.settings.home / "datasets"
    folder.mkdir(parents=True)
    for name, age in ((".part-old", 2 * datasets.LEFTOVER_SECONDS), (".part-new", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    made = datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv")
    assert files(ctx) == [".part-new", f"{made.sha256}.csv"]


class Full:
    """A file for which there is no room."""

    def read(self, size: int, /) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing(ctx: Context) -> None:
    with pytest.raises(Unavailable, match="no room"):
        datasets.add_dataset(ctx, "people", Full(), format="csv")
    assert files(ctx) == []


# In studies.

TABLE = "".join(f"{i},{i % 3},{'yes' if i % 3 else 'no'}\n" for i in range(900)).encode()


def study(path: str, **changes: Any) -> StudySpec:
    params = {"path": path, "target": "y"}
    return spec(**{"task": {"name": "tabular", "params": params}, "objective": (), **changes})


@pytest.fixture
def table(ctx: Context) -> DatasetView:
    return datasets.add_dataset(ctx, "flags", io.BytesIO(b"a,b,y\n" + TABLE), format="csv")


def test_a_study_trains_on_the_content_that_was_there(ctx: Context, table: DatasetView) -> None:
    shown = service.submit(ctx, study("dataset:flags"))
    path = shown.spec["task"]["params"]["path"]
    assert path == f"dataset:flags@{table.sha256}.csv"
    again = service.submit(ctx, study(path, name="again"))
    assert again.spec["task"]["params"]["path"] == path
    hello = WorkerHello(name="w", tasks=["tabular"])
    worker = service.register_worker(ctx, hello).worker_id
    (leased,) = service.lease(ctx, worker, LeaseRequest(k=1)).leased
    assert leased.task_params["path"] == path


@pytest.mark.parametrize("use", [service.submit, service.preview])
def test_a_study_of_what_is_not_there(ctx: Context, table: DatasetView, use: Any) -> None:
    for path, message in {
        "dataset:flag": "no dataset 'flag'; known: flags",
        "dataset:": "no dataset ''",
        f"dataset:flags@{'0' * 64}.csv": "has other content now",
        f"dataset:flags@{table.sha256}.npz": "has other content now",
        f"dataset:../../x@{table.sha256}.csv": "no dataset '../../x'",
    }.items():
        with pytest.raises(InvalidInput, match=re.escape(message)) as caught:
            use(ctx, study(path))
        assert caught.value.field == "task.params.path"
    with pytest.raises(InvalidInput) as caught:
        use(ctx, study("dataset:flags", space={"batch_size": 4096}))
    assert caught.value.field == "space.batch_size", "its rows were counted"
    assert service.list_studies(ctx).items == []


def test_a_dataset_needs_no_folder_for_data(ctx: Context, table: DatasetView) -> None:
    """The server itself put it where it is."""
    settings = dataclasses.replace(ctx.settings, data_roots=())
    assert service.submit(Context(ctx.db, ctx.now, settings), study("dataset:flags")).id


def test_a_dataset_in_use_stays(ctx: Context, table: DatasetView) -> None:
    shown = service.submit(ctx, study("dataset:flags"))
    with pytest.raises(Conflict, match="is used by study") as caught:
        datasets.delete_dataset(ctx, "flags")
    assert caught.value.facts == {"studies": ["study"]}
    assert datasets.dataset_file(ctx, table.sha256).exists()
    service.cancel_study(ctx, shown.id)
    datasets.delete_dataset(ctx, "flags")
    with pytest.raises(NotFound):
        datasets.dataset_file(ctx, table.sha256)


def test_a_server_without_the_file_says_so(
    ctx: Context, table: DatasetView, tmp_path: Path
) -> None:
    elsewhere = Context(ctx.db, ctx.now, dataclasses.replace(ctx.settings, home=tmp_path / "b"))
    with pytest.raises(InvalidInput, match="not on this server"):
        service.submit(elsewhere, study("dataset:flags"))
    with pytest.raises(NotFound):
        datasets.dataset_file(elsewhere, table.sha256)
