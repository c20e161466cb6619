"""Saved slots: one safetensors file each, with all that is not a tensor as JSON in its header.

Never pickle: reading a checkpoint runs no code. Files appear whole or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from tuner import folders
from tuner.errors import InvalidInput, NotFound

log = logging.getLogger(__name__)

FORMAT = "tuner-slot-1"


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """A slot's state (``Population.state_dict(slot)``) as the content of a file."""
    rest = {name: value for name, value in state.items() if name != "tensors"}
    tensors = {name: value.contiguous() for name, value in state["tensors"].items()}
    return tensors_to_bytes(tensors, metadata={"format": FORMAT, "slot": json.dumps(rest)})


def from_bytes(content: bytes) -> dict[str, Any]:
    """The inverse of :func:`to_bytes`.

    Raises:
        ValueError: The content is no checkpoint of ours.
    """
    try:
        tensors = tensors_from_bytes(content)
    except SafetensorError as error:
        raise ValueError(f"not a checkpoint: {error}") from error
    # safetensors.torch.load drops the header's own words: its length, 8 bytes, then JSON.
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    if header.get("format") != FORMAT:
        raise ValueError(f"not a checkpoint of the format {FORMAT}")
    return {**json.loads(header["slot"]), "tensors": tensors}


class CheckpointStore:
    """A folder, or any address that fsspec knows (``s3://...``), that holds checkpoints.

    Args:
        root: Where they go.

    Raises:
        InvalidInput: The address is of a kind that fsspec does not know, or that needs a package
            which is not installed.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        try:
            self.fs, self.path = fsspec.core.url_to_fs(self.root)
        except Exception as error:  # a file system's driver raises what it likes, or is missing
            raise InvalidInput("checkpoints", f"{self.root!r} cannot be used: {error}") from error
        self.local = "file" in self.fs.protocol
        if self.local:
            self.path = str(Path(self.path).absolute())

    @property
    def folder(self) -> Path | None:
        """Where it is on this machine; None: elsewhere."""
        return Path(self.path) if self.local else None

    def check(self) -> None:
        """Writes a small file, and removes it.

        Raises:
            InvalidInput: That does not work.
        """
        probe = f"{self.path}/{uuid.uuid4().hex}.probe"
        try:
            self.fs.makedirs(self.path, exist_ok=True)
            self.fs.pipe_file(probe, b"")
            self.fs.rm_file(probe)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise InvalidInput(
                "checkpoints", f"{self.root!r} cannot be written to: {reason}"
            ) from error

    def save(self, name: str, state: Mapping[str, Any]) -> str:
        """Writes a slot's state under a name such as ``study-1/trial-7/a1-s4``; its address.

        Raises:
            OSError: It cannot be written; nothing is left behind.
        """
        target = f"{self.path}/{name}.safetensors"
        partial = f"{target}.{uuid.uuid4().hex}.partial"
        content = to_bytes(state)
        self.fs.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            self.fs.pipe_file(partial, content)
            if self.local:
                os.replace(partial, target)
            else:
                self.fs.mv(partial, target)
        except Exception as error:
            with suppress(Exception):
                self.fs.rm_file(partial)
            if isinstance(error, OSError):
                raise
            raise OSError(f"{type(error).__name__}: {error}") from error
        return str(self.fs.unstrip_protocol(target))

    def load(self, uri: str) -> dict[str, Any]:
        """The state saved at an address.

        Raises:
            NotFound: It is not there (any more), or not readable as a checkpoint.
        """
        try:
            fs, path = fsspec.core.url_to_fs(uri)
            return from_bytes(fs.cat_file(path))
        except Exception as error:
            log.warning("checkpoint %s cannot be read: %s", uri, error)
            raise NotFound("checkpoint", uri) from error

    def address(self, name: str) -> str:
        """Where a folder such as ``study-1/trial-7`` is."""
        return str(self.fs.unstrip_protocol(f"{self.path}/{name}"))

    def clear(self, address: str) -> None:
        """Removes a trial's folder; that it is gone already is fine."""
        try:
            folders.clear(address)
        except Exception as error:
            log.debug("folder %s was not removed: %s", address, error)

    def delete(self, uri: str) -> None:
        """Removes one; that it is gone already is fine."""
        try:
            fs, path = fsspec.core.url_to_fs(uri)
            fs.rm_file(path)
        except Exception as error:
            log.debug("checkpoint %s was not removed: %s", uri, error)
