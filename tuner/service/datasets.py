"""Datasets: tables that users upload, checked on arrival, kept once per content.

The file's name is its checksum, so a study that names it trains on exactly that content, and
nothing in a user's name for it can lead elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tuner.errors import Conflict, InvalidInput, TooLarge, UnknownName
from tuner.service.names import check_name
from tuner.storage import datasets, events
from tuner.storage.models import Dataset

if TYPE_CHECKING:
    from tuner.service.context import Context

FORMATS = ("csv", "parquet")
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class DatasetView:
    """One dataset, and where workers of this machine find it."""

    id: int
    name: str
    format: str
    sha256: str
    size_bytes: int
    rows: int
    columns: dict[str, str]
    """Arrow types by column name, in the file's order."""
    path: str
    owner: str | None
    created_at: datetime


def add_dataset(
    ctx: Context,
    name: str,
    content: BinaryIO,
    *,
    format: str,
    actor: str | None = None,
    max_bytes: int | None = None,
) -> DatasetView:
    """Stores a table. The same content under the same name again changes nothing.

    Args:
        ctx: The service's context.
        name: What studies call it.
        content: The file, read once, in pieces.
        format: One of ``FORMATS``.
        actor: Who asked; its owner.
        max_bytes: The largest file taken; None: any.

    Raises:
        InvalidInput: A wrong name, an unknown format, or content that is no table of that format.
        TooLarge: It is larger than ``max_bytes``.
        Conflict: Another dataset has this name.
    """
    check_name("name", name)
    if format not in FORMATS:
        raise UnknownName("format", format, list(FORMATS), "format")
    now = ctx.now()
    with _received(_folder(ctx), content, max_bytes) as (part, sha256, size):
        summary = _summary(part, format)
        with ctx.db.write() as session:
            found = datasets.by_name(session, name)
            if found is None:
                # Before the row: a row without its file would break studies, a file without a
                # row is found again by the next upload of the same content.
                part.replace(_path(ctx, sha256, format))
                found = Dataset(
                    name=name,
                    format=format,
                    sha256=sha256,
                    size_bytes=size,
                    summary=summary,
                    owner=actor,
                    created_at=now,
                )
                datasets.add(session, found)
                data = {"dataset": found.id, "name": name, "sha256": sha256}
                events.add(session, [events.NewEvent("dataset.created", data=data)], actor, now)
            elif (found.sha256, found.format) != (sha256, format):
                raise Conflict(f"there is another dataset named {name!r}", name=name)
            return _view(ctx, found)


def list_datasets(ctx: Context) -> list[DatasetView]:
    """All datasets, by name."""
    with ctx.db.session() as session:
        return [_view(ctx, dataset) for dataset in datasets.every(session)]


def show_dataset(ctx: Context, dataset: int | str) -> DatasetView:
    """One dataset, by its id or its name.

    Raises:
        NotFound: It is not there.
    """
    with ctx.db.session() as session:
        return _view(ctx, datasets.get(session, dataset))


def delete_dataset(ctx: Context, dataset: int | str, *, actor: str | None = None) -> None:
    """Removes a dataset, and its file where no other name has the same content.

    Raises:
        NotFound: It is not there.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        found = datasets.get(session, dataset)
        view = _view(ctx, found)
        last = datasets.remove(session, found)
        data = {"dataset": view.id, "name": view.name, "sha256": view.sha256}
        events.add(session, [events.NewEvent("dataset.deleted", data=data)], actor, now)
        if last:
            Path(view.path).unlink(missing_ok=True)


@contextmanager
def _received(
    folder: Path, content: BinaryIO, max_bytes: int | None
) -> Iterator[tuple[Path, str, int]]:
    """The content in a file of its own, with its checksum and size; gone again unless taken."""
    digest, size = hashlib.sha256(), 0
    handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            while chunk := content.read(CHUNK_BYTES):
                size += len(chunk)
                if max_bytes is not None and size > max_bytes:
                    raise TooLarge(f"a dataset may have {max_bytes} bytes", limit=max_bytes)
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        yield part, digest.hexdigest(), size
    finally:
        part.unlink(missing_ok=True)


def _summary(path: Path, format: str) -> dict[str, Any]:
    """Rows and column types, read in pieces; refuses what is no table."""
    try:
        if format == "parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                rows, schema = file.metadata.num_rows, file.schema_arrow
        else:
            with pyarrow.csv.open_csv(path) as reader:
                rows, schema = sum(batch.num_rows for batch in reader), reader.schema
        columns = [(field.name, str(field.type)) for field in schema]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput("content", f"this is no readable {format} table: {reason}") from error
    if rows == 0:
        raise InvalidInput("content", "the table has no rows")
    if len(dict(columns)) < len(columns):
        raise InvalidInput("content", "two columns of the table have the same name")
    return {"rows": rows, "columns": dict(columns)}


def _folder(ctx: Context) -> Path:
    folder = ctx.settings.home.absolute() / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _path(ctx: Context, sha256: str, format: str) -> Path:
    return _folder(ctx) / f"{sha256}.{format}"


def _view(ctx: Context, dataset: Dataset) -> DatasetView:
    return DatasetView(
        id=dataset.id,
        name=dataset.name,
        format=dataset.format,
        sha256=dataset.sha256,
        size_bytes=dataset.size_bytes,
        rows=dataset.summary["rows"],
        columns=dataset.summary["columns"],
        path=str(_path(ctx, dataset.sha256, dataset.format)),
        owner=dataset.owner,
        created_at=dataset.created_at,
    )
