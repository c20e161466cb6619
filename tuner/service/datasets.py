"""Datasets: tables and arrays that users upload, checked on arrival, kept once per content.

The file's name is its checksum, so a study that names it trains on exactly that content, and
nothing in a user's name for it can lead elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.orm import Session

from tuner.errors import Conflict, InvalidInput, NotFound, TooLarge, Unavailable
from tuner.spec import StudySpec
from tuner.spec.datasets import Reference, reference, replaced
from tuner.storage import datasets, events, studies
from tuner.storage.models import Dataset
from tuner.tasks import TaskForm

if TYPE_CHECKING:
    from tuner.service.context import Context

CHUNK_BYTES = 1 << 20
NAME = re.compile(r"\w[\w .-]{0,254}")
LEFTOVER_SECONDS = 86_400
"""A file received in part that is as old as this belongs to a server that was killed."""


class Readable(Protocol):
    """What can be read in pieces, such as an open file."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


@dataclass(frozen=True)
class DatasetView:
    """One dataset."""

    id: int
    name: str
    format: str
    sha256: str
    size_bytes: int
    rows: int
    columns: dict[str, str]
    """Arrow types by column name, in the file's order; of an npz, type and shape by array."""
    reference: str
    """What a study names it by, such as ``path: dataset:iris``."""
    owner: str | None
    created_at: datetime


def add_dataset(
    ctx: Context,
    name: str,
    content: Readable,
    *,
    format: str,
    actor: str | None = None,
    max_bytes: int | None = None,
) -> DatasetView:
    """Stores a table or arrays. The same content under the same name again changes nothing.

    Its file is written anew then: it may have been lost, or damaged.

    Args:
        ctx: The service's context.
        name: What studies call it.
        content: The file, read once, in pieces.
        format: csv, parquet or npz.
        actor: Who asked; its owner.
        max_bytes: The largest file taken, also when it is unpacked; None: any.

    Raises:
        InvalidInput: A wrong name, an unknown format, or content that is no file of that format.
        TooLarge: It is larger than ``max_bytes``.
        Conflict: Another dataset has this name.
        Unavailable: There is no room for it.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            "name", "is a letter or digit, then letters, digits, spaces, _ . -, at most 255"
        )
    from tuner.service.inspection import inspect  # noqa: PLC0415  (loads Arrow)

    now = ctx.now()
    with _received(_folder(ctx), content, max_bytes) as (part, sha256, size):
        summary = inspect(part, format, max_bytes)
        with ctx.db.write() as session:
            datasets.lock_content(session, sha256)
            found = datasets.by_name(session, name, lock=True)
            if found is not None and (found.sha256, found.format) != (sha256, format):
                raise Conflict(f"there is another dataset named {name!r}", name=name)
            # Before the row: a row without its file would break studies, a file without a row is
            # found again by the next upload of the same content.
            part.replace(_folder(ctx) / Reference(name, sha256, format).file)
            if found is None:
                found = Dataset(
                    name=name,
                    format=format,
                    sha256=sha256,
                    size_bytes=size,
                    summary={"rows": summary.rows, "columns": summary.columns},
                    owner=actor,
                    created_at=now,
                )
                datasets.add(session, found)
                data = {"dataset": found.id, "name": name, "sha256": sha256}
                events.add(session, [events.NewEvent("dataset.created", data=data)], actor, now)
            return _view(found)


def list_datasets(ctx: Context) -> list[DatasetView]:
    """All datasets, by name."""
    with ctx.db.session() as session:
        return [_view(dataset) for dataset in datasets.every(session)]


def show_dataset(ctx: Context, dataset: int | str) -> DatasetView:
    """One dataset, by its id or its name.

    Raises:
        NotFound: It is not there.
    """
    with ctx.db.session() as session:
        return _view(datasets.get(session, dataset))


def delete_dataset(ctx: Context, dataset: int | str, *, actor: str | None = None) -> None:
    """Removes a dataset that no open study uses, and its file with the last name that has it.

    Raises:
        NotFound: It is not there.
        Conflict: A study that is not over uses it.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        # In this order, as whoever adds one takes them.
        datasets.lock_content(session, datasets.get(session, dataset).sha256)
        found = datasets.get(session, dataset, lock=True)
        mine = str(_reference(found))
        using = [
            name
            for name, spec in studies.open_specs(session)
            if mine in ((spec.get("task") or {}).get("params") or {}).values()
        ]
        if using:
            raise Conflict(
                f"dataset {found.name!r} is used by {', '.join(using[:5])}", studies=using
            )
        last = datasets.remove(session, found)
        data = {"dataset": found.id, "name": found.name, "sha256": found.sha256}
        events.add(session, [events.NewEvent("dataset.deleted", data=data)], actor, now)
        if last:
            (_folder(ctx) / _reference(found).file).unlink(missing_ok=True)


def dataset_file(ctx: Context, sha256: str) -> Path:
    """Where a dataset's content lies on this server, by its checksum.

    Raises:
        NotFound: There is no such content, or another server has it on a disk of its own.
    """
    with ctx.db.session() as session:
        found = datasets.by_checksum(session, sha256)
    path = None if found is None else _folder(ctx) / _reference(found).file
    if path is None or not path.exists():
        raise NotFound("dataset with checksum", sha256)
    return path


# Datasets in studies.


def pinned(ctx: Context, spec: StudySpec, form: TaskForm | None) -> StudySpec:
    """The study with the content of each dataset that it names written down.

    Args:
        ctx: The service.
        spec: The study.
        form: What is known of its task.

    Raises:
        InvalidInput: There is no such dataset, or its content is another than the study says.
    """
    if spec.task is None or form is None:
        return spec

    def pin(parameter: str, named: Reference) -> str:
        field = f"task.params.{parameter}"
        with ctx.db.session() as session:
            found = datasets.by_name(session, named.name)
            known = [dataset.name for dataset in datasets.every(session)]
        if found is None:
            raise InvalidInput(
                field, f"there is no dataset {named.name!r}; known: {', '.join(known) or 'none'}"
            )
        if named.sha256 and named != _reference(found):
            raise InvalidInput(field, f"dataset {named.name!r} has other content now")
        return str(_reference(found))

    params = replaced(spec.task.params, form.files, pin)
    return spec.model_copy(update={"task": spec.task.model_copy(update={"params": params})})


def located(ctx: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a task with the files of this server in place of datasets.

    Raises:
        InvalidInput: The file of one is not here.
    """

    def locate(parameter: str, named: Reference) -> str:
        path = _folder(ctx) / named.file
        if not path.exists():
            raise InvalidInput(
                f"task.params.{parameter}",
                f"the file of dataset {named.name!r} is not on this server; servers that share a "
                "database must share the folder datasets in TUNER_HOME",
            )
        return str(path)

    return replaced(params, params, locate)


def hold_datasets(session: Session, spec: StudySpec) -> None:
    """Keeps the datasets of a study from being deleted until it is stored.

    Raises:
        InvalidInput: One was deleted a moment ago.
    """
    for parameter, value in (spec.task.params if spec.task else {}).items():
        named = reference(value)
        if named is not None and datasets.by_name(session, named.name, lock=True) is None:
            raise InvalidInput(f"task.params.{parameter}", f"there is no dataset {named.name!r}")


@contextmanager
def _received(
    folder: Path, content: Readable, max_bytes: int | None
) -> Iterator[tuple[Path, str, int]]:
    """The content in a file of its own, with its checksum and size; gone again unless taken."""
    _clear(folder)
    digest, size = hashlib.sha256(), 0
    handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, _room():
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


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise Unavailable(f"there is no room for the dataset: {error.strerror}") from error


def _clear(folder: Path) -> None:
    """Removes what a server that was killed has left."""
    for path in folder.glob(".part-*"):
        with suppress(FileNotFoundError):  # another server clears too
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()


def _folder(ctx: Context) -> Path:
    folder = ctx.settings.home.absolute() / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _reference(dataset: Dataset) -> Reference:
    return Reference(dataset.name, dataset.sha256, dataset.format)


def _view(dataset: Dataset) -> DatasetView:
    return DatasetView(
        id=dataset.id,
        name=dataset.name,
        format=dataset.format,
        sha256=dataset.sha256,
        size_bytes=dataset.size_bytes,
        rows=dataset.summary["rows"],
        columns=dataset.summary["columns"],
        reference=str(Reference(dataset.name)),
        owner=dataset.owner,
        created_at=dataset.created_at,
    )
