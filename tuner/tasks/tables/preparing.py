"""Tables read from files, and made into numbers by what their training part shows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tuner.errors import InvalidInput
from tuner.tasks.splits import Parts, cut
from tuner.tasks.task import Arrays, Splits

LARGEST = 4 << 30
"""Bytes of a table's file."""
FEW = 20
"""Whole numbers of at most this many values, each common, are taken for classes."""
MOST_CATEGORIES = 64
"""Columns that one text column may become; rarer values share one."""


@dataclass(frozen=True)
class Prepared:
    """The table as numbers, and how it came to be.

    Args:
        splits: Features ``[n, features]``, float32; targets are class numbers or standardised.
        classes: The classes in order, or None in regression.
        center: The training targets' mean, in regression.
        scale: Their standard deviation.
        decision: What was decided and why, for people.
    """

    splits: Splits
    classes: tuple[Any, ...] | None
    center: float
    scale: float
    decision: str


def prepare(
    frame: pd.DataFrame,
    target_name: str,
    *,
    kind: str,
    drop: Sequence[str],
    valid: float,
    test: float,
) -> Prepared:
    """The table as numbers, cut into parts; the arguments are those of the task.

    Raises:
        InvalidInput: A column is missing, or the target cannot be predicted.
    """
    for name in (target_name, *drop):
        if name not in frame.columns:
            known = ", ".join(map(str, frame.columns[:50]))
            field = "target" if name == target_name else "drop"
            raise InvalidInput(
                f"task.params.{field}", f"no column {name!r} in the table; it has {known}"
            )
    rows = len(frame)
    frame = frame.dropna(subset=[target_name]).reset_index(drop=True)
    target, frame = frame[target_name], frame.drop(columns=[target_name, *drop])
    if target.nunique() < 2:
        raise InvalidInput("task.params.target", f"{target_name!r} has fewer than two values")
    classification, why = (
        decide(target) if kind == "auto" else (kind == "classification", "as asked")
    )
    dropped = f"; {rows - len(target)} rows without it left out" * (rows > len(target))
    if classification:
        if not pd.api.types.is_numeric_dtype(target):
            target = target.map(str)
        codes, labels = pd.factorize(target, sort=True)
        y: np.ndarray[Any, Any] = np.asarray(codes, dtype=np.int64)
        classes: tuple[Any, ...] | None = tuple(np.asarray(labels).tolist())
        decision = f"classification of {target_name!r}, {len(labels)} classes ({why}){dropped}"
    else:
        if not pd.api.types.is_numeric_dtype(target):
            raise InvalidInput("task.params.kind", f"{target_name!r} is text, not a number")
        y = target.to_numpy(np.float64)
        if not np.isfinite(y).all():
            raise InvalidInput("task.params.target", f"{target_name!r} has infinite values")
        classes = None
        decision = f"regression on {target_name!r} ({why}){dropped}"
    parts = cut(len(y), valid=valid, test=test, strata=y if classification else None)
    center, scale = 0.0, 1.0
    if not classification:
        center, scale = float(y[parts.train].mean()), float(y[parts.train].std())
        y = ((y - center) / (scale or 1.0))[:, None]
    x = features(frame, parts)
    arrays = [
        Arrays(torch.from_numpy(x[i]), torch.from_numpy(y[i])) if len(i) else None
        for i in (parts.train, parts.valid, parts.test)
    ]
    train, validation, held = arrays
    assert train is not None
    assert validation is not None
    return Prepared(Splits(train, validation, held), classes, center, scale or 1.0, decision)


def read_table(path: Path) -> pd.DataFrame:
    """The table in a file.

    Raises:
        InvalidInput: There is no such file, its kind is unknown, or it cannot be read.
    """
    field = "task.params.path"
    suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if suffix not in ("csv", "tsv", "parquet"):
        raise InvalidInput(field, f"{path.name!r} is no .csv, .tsv or .parquet file")
    try:
        if path.stat().st_size > LARGEST:
            raise InvalidInput(field, f"larger than {LARGEST} bytes")
        if suffix == "parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, sep="\t" if suffix == "tsv" else ",", low_memory=False)
    except OSError as error:
        raise InvalidInput(field, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, NotImplementedError, zlib.error) as error:
        # The parsers' own errors, pandas' and Arrow's, are kinds of ValueError.
        text = (str(error).splitlines() or ["empty"])[0]
        raise InvalidInput(field, f"is not a table: {text[:200]}") from error


def decide(target: pd.Series[Any]) -> tuple[bool, str]:
    """Whether the target names classes, and why."""
    if pd.api.types.is_bool_dtype(target):
        return True, "it is true or false"
    if not pd.api.types.is_numeric_dtype(target):
        return True, "it is text"
    values = target.to_numpy(np.float64)
    distinct = len(np.unique(values))
    whole = bool(np.isfinite(values).all() and (values == np.round(values)).all())
    if whole and distinct <= FEW and distinct <= max(2, len(values) // 10):
        return True, f"it is {distinct} different whole numbers; kind: regression says otherwise"
    return False, f"it is {distinct} different numbers; kind: classification says otherwise"


def features(frame: pd.DataFrame, parts: Parts) -> np.ndarray[Any, np.dtype[np.float32]]:
    """All columns as numbers, by what the training part shows.

    Raises:
        InvalidInput: No column tells one row from another.
    """
    numbers: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for name in frame.columns:
        column = frame[name]
        if column.iloc[parts.train].nunique(dropna=False) < 2:
            continue
        if pd.api.types.is_datetime64_any_dtype(column):
            numbers[name] = _seconds(column)
        elif pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            values = column.to_numpy(np.float64, na_value=np.nan)
            numbers[name] = np.where(np.isfinite(values), values, np.nan)
        else:
            words[name] = column.astype(object).where(column.notna(), "").map(str)
    if not numbers and not words:
        raise InvalidInput("task.params.path", "no column besides the target has two values")
    table = pd.DataFrame({**numbers, **words}, index=frame.index)
    transform = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(
                    SimpleImputer(strategy="median", add_indicator=True), StandardScaler()
                ),
                list(numbers),
            ),
            (
                "words",
                OneHotEncoder(
                    handle_unknown="infrequent_if_exist",
                    max_categories=MOST_CATEGORIES,
                    sparse_output=False,
                ),
                list(words),
            ),
        ]
    )
    transform.fit(table.iloc[parts.train])
    return np.ascontiguousarray(transform.transform(table), dtype=np.float32)


def _seconds(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Seconds since 1970, NaN where missing."""
    naive = column.dt.tz_convert(None) if column.dt.tz is not None else column
    seconds = (naive - pd.Timestamp(0)) / pd.Timedelta(seconds=1)
    return np.asarray(seconds, dtype=np.float64)
