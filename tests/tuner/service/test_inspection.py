"""Hostile files, looked into: what they are comes out, and nothing of them is run or believed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tuner.errors import InvalidInput, TooLarge
from tuner.service import inspection
from tuner.service.inspection import MOST_ARRAYS, MOST_COLUMNS, inspect

LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "CSV_BLOCK_BYTES", 1 << 17)


@pytest.fixture
def looked_into(tmp_path: Path) -> Callable[..., Any]:
    def look(content: bytes, kind: str, limit: int | None = LIMIT) -> Any:
        (tmp_path / "upload").write_bytes(content)
        return inspect(tmp_path / "upload", kind, limit)

    return look


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def zipped(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return out.getvalue()


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def parquet(table: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    pa.parquet.write_table(table, out, **options)
    return out.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    """The beginning of an array of that shape, of which nothing follows."""
    out = io.BytesIO()
    said = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, said)
    return out.getvalue()


class Evil:
    """Leaves a file behind wherever it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/tuner-was-hacked",)


GOOD = npy(np.zeros((3, 2)))
MANY = {f"c{i}": [1] for i in range(MOST_COLUMNS + 1)}

REFUSED: dict[str, tuple[bytes, str, str]] = {
    "a pickle in an npz": (npz(x=np.array([Evil()], dtype=object)), "npz", "pickled Python"),
    "a pickle called npy": (zipped({"x.npy": pickle.dumps(Evil())}), "npz", "magic"),
    "a pickle": (pickle.dumps(Evil()), "npz", "not a zip"),
    "records": (npz(x=np.zeros(3, dtype=[("a", "O"), ("b", "i4")])), "npz", "pickled Python"),
    "records of numbers": (npz(x=np.zeros(3, dtype=[("a", "f4")])), "npz", "no plain values"),
    "dates": (npz(x=np.zeros(3, dtype="M8[s]")), "npz", "no plain values"),
    "a path in an npz": (zipped({"../../x.npy": GOOD}), "npz", "no name of an array"),
    "an absolute path": (zipped({"/etc/x.npy": GOOD}), "npz", "no name of an array"),
    "another path": (zipped({"a\\x.npy": GOOD}), "npz", "no name of an array"),
    "a script in an npz": (zipped({"x.npy": GOOD, "run.py": b"1"}), "npz", "'run.py'"),
    "less than it says": (zipped({"x.npy": GOOD[:-8]}), "npz", "not of the size"),
    "more than it says": (zipped({"x.npy": GOOD + b"12345678"}), "npz", "not of the size"),
    "a header that is code": (
        zipped({"x.npy": b"\x93NUMPY\x01\x00\x2a\x00__import__('os').system('touch /tmp/x')  \n"}),
        "npz",
        "malformed node",
    ),
    "a negative shape": (
        zipped({"x.npy": header((-3, 2))}), "npz", r"the shape \(-3, 2\)",
    ),
    "too many arrays": (
        zipped({f"{i}.npy": b"" for i in range(MOST_ARRAYS + 1)}), "npz", "at most 1000",
    ),
    "nothing in an npz": (zipped({}), "npz", "no rows"),
    "an npz cut short": (npz(x=np.random.default_rng(0).normal(size=999))[:-300], "npz", "npz"),
    "types that change": (b"a,b\n" + b"1,2\n" * 99_999 + b"x,2\n", "csv", "CSV conversion error"),
    "rows of other lengths": (b"a,b\n1,2\n3\n", "csv", "Expected 2 columns, got 1"),
    "two columns of one name": (b"a,a\n1,2\n", "csv", "'a'"),
    "no text": (b"a,b\n\xff\xfe,\x80\n", "csv", "no readable csv|of type binary"),
    "too many columns": (
        ",".join(MANY).encode() + b"\n" + b"1," * MOST_COLUMNS + b"1\n", "csv", "at most 10000",
    ),
    "lists in a column": (parquet(pa.table({"a": [[1, 2]]})), "parquet", "no plain values"),
    "structures in a column": (parquet(pa.table({"a": [{"b": 1}]})), "parquet", "no plain values"),
    "bytes in a column": (parquet(pa.table({"a": [b"\x80\x04."]})), "parquet", "no plain values"),
    "a parquet cut short": (parquet(pa.table({"a": [1]}))[:-20], "parquet", "no readable parquet"),
    "pages that are damaged": (
        parquet(pa.table({"a": list(range(9999))}), compression="none")[:4]
        + b"\xff" * 30_000
        + parquet(pa.table({"a": list(range(9999))}), compression="none")[30_004:],
        "parquet",
        "no readable parquet",
    ),
    "no rows": (parquet(pa.table({"a": pa.array([], pa.int64())})), "parquet", "no rows"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_nobody_can_train_on_is_refused(looked_into: Callable[..., Any], what: str) -> None:
    content, kind, message = REFUSED[what]
    with pytest.raises(InvalidInput, match=message) as caught:
        looked_into(content, kind)
    assert caught.value.field == "content"
    assert not Path("/tmp/tuner-was-hacked").exists()


BOMBS: dict[str, tuple[bytes, str]] = {
    "zeros": (npz(x=np.zeros(4 << 20, dtype=np.uint8)), "npz"),
    "a few large arrays": (npz(**{f"x{i}": np.zeros(LIMIT // 4) for i in range(8)}), "npz"),
    "a size that only the header says": (zipped({"x.npy": header((1 << 40,))}), "npz"),
    "one value a million times": (parquet(pa.table({"a": [0] * 1_000_000})), "parquet"),
    "a long text a thousand times": (
        parquet(pa.table({"a": ["x" * 100_000] * 1000})), "parquet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_what_unpacks_to_too_much_is_refused(looked_into: Callable[..., Any], what: str) -> None:
    content, kind = BOMBS[what]
    assert len(content) < LIMIT // 4
    with pytest.raises(TooLarge):
        looked_into(content, kind)


def test_columns_of_many_types(looked_into: Callable[..., Any]) -> None:
    table = pa.table(
        {
            "i": [1, 2, None],
            "f": [0.5, None, 1.5],
            "t": ["a", "b", None],
            "b": [True, False, None],
            "d": pa.array([1, 2, 3], pa.timestamp("s")),
            "c": pa.array(["x", "y", "x"]).dictionary_encode(),
        }
    )
    found = looked_into(parquet(table), "parquet")
    assert found.rows == 3
    assert found.columns["c"].startswith("dictionary")
    assert found.columns["d"] == "timestamp[ms]"


def test_a_column_may_turn_out_to_be_wider_than_it_began(looked_into: Callable[..., Any]) -> None:
    """Whole numbers, then a fraction, beyond what the first look sees."""
    content = b"a,b\n" + b"1,\n" * 99_999 + b"0.5,text\n"
    found = looked_into(content, "csv")
    assert found.rows == 100_000
    assert found.columns == {"a": "int64", "b": "null"}


def test_arrays_of_another_order_and_version(looked_into: Callable[..., Any]) -> None:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asfortranarray(np.ones((2, 3))), version=(2, 0))
    found = looked_into(zipped({"x.npy": out.getvalue()}), "npz")
    assert found.columns == {"x": "float64 [2, 3]"}
