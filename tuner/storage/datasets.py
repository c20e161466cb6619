"""Uploaded data: one row a name; the file itself lies on disk under its checksum."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tuner.errors import NotFound
from tuner.storage.models import Dataset


def add(session: Session, dataset: Dataset) -> int:
    """Stores a new dataset and says its id."""
    session.add(dataset)
    session.flush()
    return dataset.id


def get(session: Session, dataset: int | str, *, lock: bool = False) -> Dataset:
    """One dataset, by its id or its name; ``lock`` until the transaction ends.

    Raises:
        NotFound: It is not there.
    """
    column = Dataset.id if isinstance(dataset, int) else Dataset.name
    query = select(Dataset).where(column == dataset)
    found = session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound("dataset", dataset)
    return found


def by_name(session: Session, name: str, *, lock: bool = False) -> Dataset | None:
    """The dataset of that name, if there is one; ``lock`` until the transaction ends."""
    query = select(Dataset).where(Dataset.name == name)
    return session.scalar(query.with_for_update() if lock else query)


def by_checksum(session: Session, sha256: str) -> Dataset | None:
    """A dataset with that content, if there is one."""
    return session.scalar(select(Dataset).where(Dataset.sha256 == sha256).limit(1))


def lock_content(session: Session, sha256: str) -> None:
    """Lets nobody else add or remove a name of this content until the transaction ends.

    Its file goes with the last name, and rows that others have not committed yet are not counted.
    SQLite has one writer at a time.
    """
    if session.get_bind().dialect.name == "postgresql":
        key = int.from_bytes(bytes.fromhex(sha256[:16]), signed=True)
        session.execute(select(func.pg_advisory_xact_lock(key)))


def every(session: Session) -> list[Dataset]:
    """All datasets, by name."""
    return list(session.scalars(select(Dataset).order_by(Dataset.name)))


def remove(session: Session, dataset: Dataset) -> bool:
    """Removes the row; says whether it was the last one with this file."""
    session.delete(dataset)
    session.flush()
    others = select(func.count(Dataset.id)).where(
        Dataset.sha256 == dataset.sha256, Dataset.format == dataset.format
    )
    return not session.scalar(others)
