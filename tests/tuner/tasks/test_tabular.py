"""Tables as people have them: missing values, text, dates, rare classes, and what is no table."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tuner.errors import InvalidInput
from tuner.tasks import Arrays
from tuner.tasks.splits import cut
from tuner.tasks.tables.preparing import decide
from tuner.tasks.tabular import Tabular

ROWS = 300


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "number": rng.normal(50.0, 10.0, ROWS),
            "gaps": np.where(rng.random(ROWS) < 0.2, np.nan, rng.normal(size=ROWS)),
            "city": rng.choice(["Rom", "Paris", "Wien"], ROWS),
            "code": [f"id{i}" for i in range(ROWS)],
            "flag": rng.random(ROWS) < 0.5,
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 400, ROWS), "D"),
            "constant": 1,
            "empty": np.full(ROWS, np.nan),
        }
    )
    table["price"] = 3 * table["number"] + 20 * (table["city"] == "Wien") + rng.normal(size=ROWS)
    table["class"] = np.where(table["number"] > 50, "high", "low")
    return table


def make(tmp_path: Path, table: pd.DataFrame | None = None, **params: Any) -> Tabular:
    path = tmp_path / "table.parquet"
    (frame() if table is None else table).to_parquet(path)
    return Tabular(path=str(path), **params)


def part(task: Tabular, name: str) -> Arrays:
    samples = getattr(task.data(), name)
    assert isinstance(samples, Arrays)
    return samples


def test_parts_and_features(tmp_path: Path) -> None:
    task = make(tmp_path, target="class", drop=["code", "price"])
    sizes = [len(part(task, name)) for name in ("train", "valid", "test")]
    assert sizes == [180, 60, 60]
    # number, gaps and whether there was a gap, when, three cities, two flags; no constants
    assert part(task, "train").x.shape == (180, 9)
    assert part(task, "train").x.dtype == torch.float32
    assert part(task, "valid").x.isfinite().all()


def test_nothing_is_learned_from_the_other_parts(tmp_path: Path) -> None:
    """Wild values in validation and test rows leave the training features as they are."""
    params: dict[str, Any] = {"target": "price", "drop": ["class", "code"]}
    task = make(tmp_path, **params)
    parts = task.data()
    train = part(task, "train")
    wild = frame()
    mean = train.x[:, 0].mean()
    assert abs(float(mean)) < 1e-5  # standardised by the training part
    table = frame()
    rows = cut(ROWS, valid=0.2, test=0.2)
    for index in (rows.valid, rows.test):
        wild.loc[index, "number"] = 1e6
        wild.loc[index, "gaps"] = -1e6
        wild.loc[index, "city"] = "Atlantis"
        wild.loc[index, "price"] = 1e9
    assert not wild.equals(table)
    again = make(tmp_path, wild, **params)
    assert torch.equal(part(again, "train").x, train.x)
    assert torch.equal(part(again, "train").y, train.y)
    assert len(parts.valid) == 60


def test_an_unknown_category_is_no_error(tmp_path: Path) -> None:
    table = frame()
    table.loc[cut(ROWS, valid=0.2, test=0.2).valid, "city"] = "Atlantis"
    task = make(tmp_path, table, target="price", drop=["class", "code"])
    cities = part(task, "valid").x[:, 4:7]
    assert torch.equal(cities, torch.zeros_like(cities))


def test_many_rare_values_share_a_column(tmp_path: Path) -> None:
    task = make(tmp_path, target="price", drop=["class"])
    assert part(task, "train").x.shape[1] <= 9 + 64


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (["a", "b", "a"] * 20, True),
        ([True, False] * 30, True),
        ([0, 1] * 30, True),
        ([1.0, 2.0, 3.0] * 20, True),
        (list(range(60)), False),
        ([0.5, 1.0] * 30, False),
        ([1, 2, 3, 4, 5, 6, 7] * 3, False),  # each too rare to be a class
        ([float("inf"), 1.0] * 10, False),
    ],
)
def test_decision(target: list[Any], classes: bool) -> None:
    found, why = decide(pd.Series(target))
    assert found is classes
    assert why


def test_the_decision_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = frame()
    table.loc[:9, "class"] = None
    with caplog.at_level(logging.INFO, "tuner.tasks.tabular"):
        task = make(tmp_path, table, target="class")
        task.data()
        task.data()
    assert [record.getMessage() for record in caplog.records] == [
        "table.parquet: classification of 'class', 2 classes (it is text); "
        "10 rows without it left out"
    ]
    assert task.prepared.classes == ("high", "low")


def test_kind_overrides(tmp_path: Path) -> None:
    table = frame()
    table["grade"] = np.arange(ROWS) % 3
    automatic = make(tmp_path, table, target="grade")
    assert automatic.metric_names() == [
        "val_loss",
        "train_loss",
        "val_accuracy",
        "val_absolute_error",
    ]
    assert automatic.prepared.classes == (0, 1, 2)
    assert automatic.metric_names() == ["val_loss", "train_loss", "val_accuracy"]
    forced = make(tmp_path, table, target="grade", kind="regression")
    assert forced.metric_names() == ["val_loss", "train_loss", "val_absolute_error"]
    assert forced.prepared.classes is None
    assert part(forced, "train").y.shape == (180, 1)


def test_regression_is_in_the_targets_units(tmp_path: Path) -> None:
    """Predicting the mean costs 1 in loss, and in absolute error what it is in the table."""
    task = make(tmp_path, target="price", drop=["class", "code"])
    train = part(task, "train")
    zero = torch.zeros_like(train.y)
    assert float(task.loss(zero, train.y, {}).mean()) == pytest.approx(1.0, rel=1e-6)
    price = task.prepared.center + task.prepared.scale * train.y.squeeze(1)
    expected = (price - task.prepared.center).abs()
    torch.testing.assert_close(task.metrics(zero, train.y)["absolute_error"], expected)
    assert 130 < task.prepared.center < 180


def test_it_learns(tmp_path: Path) -> None:
    task = make(tmp_path, target="price", drop=["class", "code"])
    train, valid = part(task, "train"), part(task, "valid")
    torch.manual_seed(0)
    model = task.model({})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(model(train.x), train.y.float(), {}).mean().backward()
        optimizer.step()
    assert float(task.loss(model(valid.x), valid.y.float(), {}).mean().detach()) < 0.1


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet"])
def test_every_format_reads_the_same(tmp_path: Path, name: str) -> None:
    table = frame().drop(columns=["when"])  # CSV has no dates
    path = tmp_path / name
    if name == "t.parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if name == "t.tsv" else ",")
    task = Tabular(path=str(path), target="price", drop=["class"])
    expected = make(tmp_path, table, target="price", drop=["class"])
    torch.testing.assert_close(part(task, "test").x, part(expected, "test").x)


def write(tmp_path: Path, name: str, content: bytes) -> str:
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("absent.csv", None, "path"),
        ("table.xlsx", b"", "path"),
        ("table.csv", b"", "path"),
        ("table.csv", b'a,b\n1,2\n"', "path"),
        ("table.csv", b"\xff\xfe\x00\xff" * 9, "path"),
        ("table.csv.gz", b"not gzip", "path"),
        ("table.csv.gz", gzip.compress(b"a,y\n1,2\n" * 99, mtime=0)[:-12], "path"),
        ("table.parquet", b"PAR1 no", "path"),
        ("table.csv", b"a,b\n1,2\n3,4\n", "target"),
        ("table.csv", b"a,y\n1,2\n3,2\n", "target"),
        ("table.csv", b"a,y\n" + b"1,1\n1,2\n" * 50, "path"),
        ("table.csv", b"y\n" + b"1\n2\n" * 50, "path"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, content: bytes | None, field: str) -> None:
    path = str(tmp_path / name) if content is None else write(tmp_path, name, content)
    with pytest.raises(InvalidInput) as error:
        Tabular(path=path, target="y").data()
    assert error.value.field == f"task.params.{field}"


def test_wrong_parameters(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"task\.params\.kind: 'both'"):
        make(tmp_path, target="price", kind="both")
    with pytest.raises(InvalidInput, match=r"task\.params\.drop: no column 'x'"):
        make(tmp_path, target="price", drop=["x"]).data()
    with pytest.raises(InvalidInput, match=r"task\.params\.valid"):
        make(tmp_path, target="price", valid=1.5).data()
    with pytest.raises(InvalidInput, match=r"task\.params\.kind: 'class' is text"):
        make(tmp_path, target="class", kind="regression").data()
    with pytest.raises(InvalidInput, match="too few"):
        make(tmp_path, frame().iloc[:2], target="price", kind="regression").data()


def test_a_class_of_one_is_still_cut(tmp_path: Path) -> None:
    table = frame()
    table.loc[0, "class"] = "unique"
    task = make(tmp_path, table, target="class")
    assert task.prepared.classes == ("high", "low", "unique")
    assert len(part(task, "train")) == 180
