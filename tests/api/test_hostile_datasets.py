"""Uploads that mean harm, over HTTP: a clear 4xx, and nothing left behind."""

from __future__ import annotations

import io
import os
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.api.conftest import Server

LIMIT = 64 * 1024
CSV = b"a,b\n1,2\n3,4\n"


class Evil:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.fixture
def small(start: Callable[..., Server]) -> Server:
    return start(max_dataset_bytes=LIMIT)


@pytest.fixture
def client(small: Server) -> Iterator[httpx.Client]:
    with small.client() as connected:
        yield connected


def left(server: Server) -> list[str]:
    """What lies in the folder of datasets."""
    folder = server.context.settings.home / "datasets"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def refused(client: httpx.Client, content: Any, status: int, **query: str) -> dict[str, Any]:
    answer = client.post("/api/v1/datasets", params={"name": "x", **query}, content=content)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    return problem


def pickled(path: Path) -> bytes:
    out = io.BytesIO()
    np.savez(out, x=np.array([Evil(str(path))], dtype=object))
    return out.getvalue()


def test_a_pickle_is_never_opened(small: Server, client: httpx.Client, tmp_path: Path) -> None:
    problem = refused(client, pickled(tmp_path / "hacked"), 422, format="npz")
    assert "pickled Python objects" in problem["detail"]
    assert not (tmp_path / "hacked").exists()
    assert left(small) == []


def test_a_bomb_does_not_go_off(small: Server, client: httpx.Client) -> None:
    out = io.BytesIO()
    np.savez_compressed(out, x=np.zeros(50 * 2**20, dtype=np.uint8))
    assert len(out.getvalue()) < LIMIT
    problem = refused(client, out.getvalue(), 413, format="npz")
    assert "unpacks to more" in problem["detail"]
    assert left(small) == []


def test_ten_gigabytes_are_refused_before_they_are_sent(small: Server) -> None:
    """By what the request says of itself: not one byte of the body is waited for."""
    host, _, port = small.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(
            f"POST /api/v1/datasets?name=x HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {small.admin}\r\nContent-Length: {10 * 2**30}\r\n\r\n".encode()
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
    assert left(small) == []


def test_a_stream_without_end_is_cut_off(small: Server, client: httpx.Client) -> None:
    sent = 0

    def lines() -> Iterator[bytes]:
        nonlocal sent
        yield b"a,b\n"
        for _ in range(10_000):
            sent += 4096
            yield b"1,2\n" * 1024

    problem = refused(client, lines(), 413)
    assert problem["code"] == "too_large"
    assert left(small) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\\b", "..", "a\nb", ""])
def test_a_path_for_a_name_is_refused(small: Server, client: httpx.Client, name: str) -> None:
    assert refused(client, CSV, 422, name=name)["field"] in ("name", "query.name")
    assert left(small) == []


def test_a_path_inside_an_npz_is_refused(small: Server, client: httpx.Client) -> None:
    out, array = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../../evil.npy", array.getvalue())
    assert "no name of an array" in refused(client, out.getvalue(), 422, format="npz")["detail"]
    assert left(small) == []


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (b"", "csv"),
        (b"a,b\n1\n", "csv"),
        (CSV, "parquet"),
        (CSV, "npz"),
        (b"PK\x03\x04", "npz"),
        (CSV, "pickle"),
        (b"\x80\x04\x95", "csv"),
    ],
)
def test_what_is_no_such_file(
    small: Server, client: httpx.Client, content: bytes, format: str
) -> None:
    refused(client, content, 422, format=format)
    assert left(small) == []


def parquet(column: pa.Array) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"x": column}), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "format", "word"),
    [
        (b"a,b\n" + b"1,2\n" * 200 + b"one,2\n", "csv", "conversion error"),
        (parquet(pa.array([[1], [2, 3]])), "parquet", "'x' is of type list"),
        (parquet(pa.array([b"\x80\x04."])), "parquet", "'x' is of type binary"),
        (parquet(pa.array([{"a": 1}])), "parquet", "'x' is of type struct"),
    ],
    ids=["number, then text", "lists", "bytes", "structs"],
)
def test_columns_that_are_no_plain_values(
    small: Server,
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    format: str,
    word: str,
) -> None:
    monkeypatch.setattr("tuner.service.inspection.CSV_BLOCK_BYTES", 256)
    problem = refused(client, content, 422, format=format)
    assert problem["field"] == "content"
    assert word in problem["detail"]
    assert left(small) == []


def test_what_is_quoted_of_a_file_is_printable(client: httpx.Client) -> None:
    content = b"a,b\n1,\x1b]0;owned\x07,3\n"
    assert refused(client, content, 422, format="csv")["detail"].isprintable()


def test_nothing_is_read_of_who_may_not_send(small: Server) -> None:
    for token, status in (("", 401), (small.token("read", "work"), 403)):
        with small.client(token=token) as stranger:
            refused(stranger, CSV, status)
    assert left(small) == []


def test_a_connection_that_breaks_leaves_nothing(small: Server, client: httpx.Client) -> None:
    def half() -> Iterator[bytes]:
        yield CSV
        raise OSError("the cable was pulled")

    with pytest.raises(OSError, match="cable"):
        client.post("/api/v1/datasets", params={"name": "x"}, content=half())
    made = client.post("/api/v1/datasets", params={"name": "x"}, content=CSV)
    assert made.status_code == 201
    assert left(small) == [f"{made.json()['sha256']}.csv"]


def test_files_are_served_by_checksum_alone(small: Server, client: httpx.Client) -> None:
    for path in ("..%2F..%2Ftuner.sqlite", "0" * 63, "0" * 64, "%00"):
        answer = client.get(f"/api/v1/datasets/files/{path}")
        assert answer.status_code in (404, 422), path
    for token, code in (("wrong", 401), (small.token("work"), 404), (small.token("submit"), 404)):
        with small.client(token=token) as asking:
            answer = asking.get(f"/api/v1/datasets/files/{'0' * 64}")
            assert answer.status_code == code
