"""Datasets: what is taken, kept once, refused and removed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pandas as pd
import pytest

from tuner.errors import Conflict, InvalidInput, NotFound, TooLarge, UnknownName
from tuner.service import datasets
from tuner.service.context import Context, ServiceSettings
from tuner.storage import Database

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
    assert Path(made.path).read_bytes() == CSV
    assert datasets.show_dataset(ctx, "people") == datasets.show_dataset(ctx, made.id) == made
    assert datasets.list_datasets(ctx) == [made]


def test_parquet_is_taken_too(ctx: Context) -> None:
    content = io.BytesIO()
    pd.DataFrame({"x": [1.0, 2.0, 3.0]}).to_parquet(content)
    content.seek(0)
    made = datasets.add_dataset(ctx, "xs", content, format="parquet")
    assert (made.rows, made.columns) == (3, {"x": "double"})
    assert pd.read_parquet(made.path)["x"].tolist() == [1.0, 2.0, 3.0]


def test_the_same_again_changes_nothing(ctx: Context) -> None:
    first = datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv")
    assert datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv") == first
    assert files(ctx) == [f"{first.sha256}.csv"]


def test_a_name_is_one_content(ctx: Context) -> None:
    datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv")
    with pytest.raises(Conflict):
        datasets.add_dataset(ctx, "people", io.BytesIO(CSV + b"3,c,1\n"), format="csv")
    assert len(files(ctx)) == 1


def test_a_file_goes_with_its_last_name(ctx: Context) -> None:
    first = datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="csv")
    second = datasets.add_dataset(ctx, "the same people", io.BytesIO(CSV), format="csv")
    assert first.path == second.path
    datasets.delete_dataset(ctx, "people")
    assert Path(second.path).exists()
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


@pytest.mark.parametrize("name", ["", " ", "a\nb", "nul\x00", "x" * 256], ids=repr)
def test_a_wrong_name_is_refused(ctx: Context, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        datasets.add_dataset(ctx, name, io.BytesIO(CSV), format="csv")
    assert caught.value.field == "name"


def test_a_name_cannot_lead_elsewhere(ctx: Context) -> None:
    made = datasets.add_dataset(ctx, "../../etc/passwd", io.BytesIO(CSV), format="csv")
    assert Path(made.path).parent == ctx.settings.home / "datasets"


def test_an_unknown_format_is_refused(ctx: Context) -> None:
    with pytest.raises(UnknownName, match="csv, parquet"):
        datasets.add_dataset(ctx, "people", io.BytesIO(CSV), format="xls")


def test_a_file_above_the_limit_is_refused(ctx: Context) -> None:
    with pytest.raises(TooLarge):
        datasets.add_dataset(ctx, "p", io.BytesIO(CSV), format="csv", max_bytes=len(CSV) - 1)
    assert files(ctx) == []
    datasets.add_dataset(ctx, "p", io.BytesIO(CSV), format="csv", max_bytes=len(CSV))
