"""The folders of trials' checkpoints: what they are called, what belongs in them, how they go.

They lie below a root at any address that fsspec knows. Workers write there, and say where; they
must not be able to have any other file removed, so what has another name than we give stays.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import fsspec

CONTENT = re.compile(r"a\d+|a\d+-s\d+\.safetensors(\.[0-9a-f]{32}\.partial)?|lock|trial\.json")
"""A script's own folder, a saved slot, one not written to its end, a script's lock and owner."""


def of_trial(study_id: int, number: int) -> str:
    """A trial's folder below the root."""
    return f"study-{study_id}/trial-{number}"


def holding(uri: str, study_id: int, number: int) -> tuple[str, str] | None:
    """The root, and the trial's folder, from where one of its checkpoints is.

    None: that is no address which workers give this very trial's checkpoints.
    """
    root, found, name = uri.rpartition(f"/{of_trial(study_id, number)}/")
    ours = re.fullmatch(r"a\d+(-s\d+\.safetensors)?", name)
    if not root or root.endswith("/") or ".." in uri or ours is None:
        return None
    return root, root + found.rstrip("/")


def clear(address: str) -> None:
    """Removes a trial's folder, without what is not ours in it; that it is gone already is fine.

    Raises:
        Exception: Whatever the address's driver raises where it cannot be reached.
    """
    fs, path = fsspec.core.url_to_fs(address)
    _clear(fs, path)


def clear_studies(root: str, over: Mapping[int, Collection[int]]) -> None:
    """Removes the folders of studies that have ended, as far as there are any.

    Args:
        root: Where all folders are.
        over: By study, the numbers of trials whose folders stay.

    Raises:
        Exception: Whatever the root's driver raises where it cannot be reached.
    """
    fs, path = fsspec.core.url_to_fs(root)
    there = set(_names(fs, path))
    for study_id, kept in over.items():
        if f"study-{study_id}" not in there:
            continue
        folder = f"{path}/study-{study_id}"
        for name in _names(fs, folder):
            trial = re.fullmatch(r"trial-(\d+)", name)
            if trial and int(trial[1]) not in kept:
                _clear(fs, f"{folder}/{name}")
        _remove_empty(fs, folder)


def _clear(fs: Any, path: str) -> None:
    for name in _names(fs, path):
        if CONTENT.fullmatch(name):
            with suppress(FileNotFoundError):  # others clear too
                fs.rm(f"{path}/{name}", recursive=True)
    _remove_empty(fs, path)


def _names(fs: Any, path: str) -> list[str]:
    """What is in a folder now, whatever was seen there before."""
    fs.invalidate_cache(path)
    try:
        return [str(entry).rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False)]
    except FileNotFoundError:
        return []


def _remove_empty(fs: Any, path: str) -> None:
    """Removes a folder with nothing in it; where files have no folders there is none to remove."""
    with suppress(Exception):  # a driver raises what it likes where one is not empty, or not there
        fs.rmdir(path)
