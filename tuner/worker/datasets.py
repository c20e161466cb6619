"""Uploaded datasets on a worker: fetched once by checksum, and found again by it."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import InvalidInput
from tuner.protocol import Gateway
from tuner.spec.datasets import Reference, replaced

log = logging.getLogger(__name__)


class DatasetCache:
    """Datasets as files of this machine.

    A worker that shares its home folder with the server finds the server's own files there.

    Args:
        folder: Where they lie, under their checksums.
        gateway: Where one comes from that is not there.
    """

    def __init__(self, folder: Path, gateway: Gateway) -> None:
        self.folder = folder.absolute()
        self.gateway = gateway

    def located(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A task's parameters, with a local file in place of each dataset.

        Raises:
            NotFound: The server has no such content any more.
            Unavailable: The server cannot be reached.
            InvalidInput: What came is not what was asked for.
        """
        return replaced(params, params, lambda _, named: str(self._file(named)))

    def _file(self, named: Reference) -> Path:
        path = self.folder / named.file
        if path.exists():
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=self.folder)
        os.close(handle)
        part = Path(name)
        try:
            self.gateway.fetch(named.sha256, part)
            with part.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != named.sha256:
                raise InvalidInput("dataset", f"{named.name!r} came with the checksum {found}")
            part.chmod(0o644)
            part.replace(path)  # whole or not at all; two workers that fetch it do no harm
        finally:
            part.unlink(missing_ok=True)
        log.info("dataset %s is here, %d bytes", named.name, path.stat().st_size)
        return path
