"""Files that studies can name, on a server."""

from __future__ import annotations

from pathlib import Path

from tuner.client.connection import Connection
from tuner.errors import InvalidInput
from tuner.service.datasets import DatasetView


class Datasets(Connection):
    """The client's part for uploads."""

    def upload(
        self, path: str | Path, name: str | None = None, *, format: str | None = None
    ) -> DatasetView:
        """Stores a file that studies can name: ``path: dataset:NAME``.

        Args:
            path: A CSV, Parquet or npz file.
            name: What studies call it; by default the file's own name without its ending.
            format: csv, parquet or npz; by default the file's ending.

        Raises:
            InvalidInput: It cannot be read, or is no such file.
            Conflict: Another dataset has this name.
        """
        path = Path(path)
        query = {"name": name or path.stem, "format": format or path.suffix.removeprefix(".")}
        try:
            with path.open("rb") as file:
                answer = self._transport.upload("datasets", file, params=query)
        except OSError as error:
            raise InvalidInput("file", f"{path} cannot be read: {error.strerror}") from error
        return self._value(DatasetView, answer)

    def datasets(self) -> list[DatasetView]:
        """All datasets, by name."""
        return self._read(list[DatasetView], "GET", "datasets")

    def delete_dataset(self, dataset: int) -> None:
        """Removes a dataset that no open study uses."""
        self._transport.call("DELETE", f"datasets/{dataset}", repeatable=True)
