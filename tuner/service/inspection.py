"""Uploaded files looked into before they are kept: what they hold, and that it is what it seems.

Nothing of a file is believed: it is read to its end in pieces, counted as it unpacks, and never
unpickled. A worker that opens it later finds a table or plain arrays of a bounded size.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.lib import format as npy

from tuner.errors import InvalidInput, TooLarge, UnknownName

FORMATS = ("csv", "parquet", "npz")
FIELD = "content"
MOST_COLUMNS = 10_000
MOST_ARRAYS = 1000
CHUNK_BYTES = 1 << 20
CSV_BLOCK_BYTES = 16 << 20
BATCH_ROWS = 65536
WIDER: Mapping[pa.DataType, pa.DataType] = {pa.int64(): pa.float64(), pa.null(): pa.string()}
"""Types that the beginning of a CSV may suggest too early."""
LONGEST_HEADER = 10_000
"""Bytes of an array's header, which is read as a literal."""


@dataclass(frozen=True)
class Summary:
    """What a file holds.

    Args:
        rows: Of the table; of an npz, of its longest array.
        columns: Arrow type by column; of an npz, type and shape by array.
    """

    rows: int
    columns: dict[str, str]


def inspect(path: Path, kind: str, most_bytes: int | None) -> Summary:
    """What a file holds.

    Args:
        path: The file.
        kind: One of ``FORMATS``.
        most_bytes: The most that it may unpack to; None: any.

    Raises:
        UnknownName: There is no such format.
        InvalidInput: It is no readable file of that format, or holds what nobody can train on.
        TooLarge: It unpacks to more than it may.
    """
    if kind not in FORMATS:
        raise UnknownName("format", kind, list(FORMATS), "format")
    limit = math.inf if most_bytes is None else most_bytes
    try:
        summary = {"csv": _csv, "parquet": _parquet, "npz": _npz}[kind](path, limit)
    except (pa.ArrowException, OSError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(kind, error) from error
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise _unreadable(kind, error) from error
    if summary.rows == 0:
        raise InvalidInput(FIELD, "there are no rows in it")
    return summary


def _unreadable(kind: str, error: Exception) -> InvalidInput:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    # It may quote the file, and nobody's terminal is to obey that.
    shown = "".join(c if c.isprintable() else "\ufffd" for c in reason[:300])
    return InvalidInput(FIELD, f"this is no readable {kind} file: {shown}")


def _csv(path: Path, limit: float) -> Summary:
    options = pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES)
    with pyarrow.csv.open_csv(path, read_options=options) as reader:
        schema = reader.schema
    columns = _columns(schema)
    # What the first block suggests may be too narrow for the rest: 1, 2, 3 may go on as 3.5.
    wider = {c.name: WIDER.get(c.type, c.type) for c in schema}
    types = pyarrow.csv.ConvertOptions(column_types=wider)
    with pyarrow.csv.open_csv(path, read_options=options, convert_options=types) as reader:
        rows = sum(batch.num_rows for batch in reader)
    return Summary(rows, columns)


def _parquet(path: Path, limit: float) -> Summary:
    count = _Counter(limit)
    with pyarrow.parquet.ParquetFile(path) as file:
        columns = _columns(file.schema_arrow)
        words = [name for name, kind in columns.items() if kind in ("string", "large_string")]
        _Counter(limit)(sum(_group_bytes(file.metadata, i) for i in range(file.num_row_groups)))
    rows = 0
    # A text that is repeated packs to nothing: it stays packed here, and is counted as it unpacks.
    with pyarrow.parquet.ParquetFile(path, read_dictionary=words) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            rows += batch.num_rows
            for column in batch.columns:
                count(column.nbytes)
                if pa.types.is_dictionary(column.type):
                    lengths = pc.binary_length(column.dictionary.cast(pa.large_string()))
                    count(pc.sum(lengths.take(column.indices)).as_py() or 0)
    return Summary(rows, columns)


def _group_bytes(metadata: pyarrow.parquet.FileMetaData, group: int) -> int:
    return max(0, int(metadata.row_group(group).total_byte_size))


def _columns(schema: pa.Schema) -> dict[str, str]:
    """The types of a table's columns; refuses those that are no plain values."""
    if len(schema) > MOST_COLUMNS:
        raise InvalidInput(FIELD, f"the table has {len(schema)} columns; at most {MOST_COLUMNS}")
    columns: dict[str, str] = {}
    for column in schema:
        kind = column.type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if (
            pa.types.is_nested(inner)
            or pa.types.is_binary(inner)
            or pa.types.is_large_binary(inner)
        ):
            raise InvalidInput(FIELD, f"column {column.name!r} is of type {kind}: no plain values")
        if isinstance(kind, pa.BaseExtensionType):
            raise InvalidInput(FIELD, f"column {column.name!r} is of type {kind}: unknown here")
        if column.name in columns:
            raise InvalidInput(FIELD, f"two columns of the table are called {column.name!r}")
        columns[column.name] = str(kind)
    return columns


def _npz(path: Path, limit: float) -> Summary:
    columns: dict[str, str] = {}
    rows = 0
    count = _Counter(limit)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_ARRAYS:
            raise InvalidInput(FIELD, f"it holds {len(entries)} arrays; at most {MOST_ARRAYS}")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or "/" in name or "\\" in name or not name.isprintable():
                raise InvalidInput(FIELD, f"{entry.filename!r} in it is no name of an array")
            if name in columns:
                raise InvalidInput(FIELD, f"two arrays in it are called {name!r}")
            with archive.open(entry) as file:
                shape, kind = _array(name, file)
                wanted = math.prod(shape) * kind.itemsize
                count(wanted)  # before it is unpacked
                if _length(file, wanted + 1) != wanted:
                    raise InvalidInput(FIELD, f"{name} is not of the size that it says")
            columns[name] = f"{kind} {list(shape)}"
            rows = max(rows, shape[0] if shape else 0)
    return Summary(rows, columns)


def _array(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type of an array, by its header.

    Python objects are refused: to read them is to run whatever they say.
    """
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise InvalidInput(FIELD, f"{name} is an array of version {version[0]}.{version[1]}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = read(file, max_header_size=LONGEST_HEADER)
    if kind.hasobject:
        raise InvalidInput(FIELD, f"{name} holds pickled Python objects, which are never read")
    if kind.names is not None or kind.kind not in "biufSU":
        raise InvalidInput(FIELD, f"{name} is of type {kind}: no plain values")
    if any(n < 0 for n in shape):
        raise InvalidInput(FIELD, f"{name} has the shape {shape}")
    return shape, kind


def _length(file: IO[bytes], most: int) -> int:
    """The bytes left in a file, counted no further than ``most``."""
    seen = 0
    while seen < most and (chunk := file.read(min(CHUNK_BYTES, most - seen))):
        seen += len(chunk)
    return seen


class _Counter:
    """Adds up bytes, and refuses when there are too many."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.seen = 0

    def __call__(self, more: int) -> None:
        self.seen += more
        if self.seen > self.limit:
            raise TooLarge(
                f"it unpacks to more than the {self.limit:.0f} bytes that a dataset may have",
                limit=self.limit,
            )
