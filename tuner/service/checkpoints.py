"""Checkpoints that nothing will be resumed from: their files are deleted when a study is over.

Workers delete what they know to be finished; what early stopping set aside is nobody's by then.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import fsspec

from tuner.service.context import Context
from tuner.storage import checkpoints as stored
from tuner.storage.checkpoints import Saved

log = logging.getLogger(__name__)

BATCH = 500
"""Files deleted between two looks at the database."""
SUFFIX = ".safetensors"
LATE = timedelta(minutes=1)
"""How much later than its time a study's end may be seen: clocks differ, transactions take time."""


def sweep(ctx: Context) -> None:
    """Deletes the checkpoints of all trials whose study has ended, and forgets where they were.

    A file that cannot be reached (it lies on a worker's own disk, or is gone) is logged and left.
    """
    now, since = ctx.now(), ctx.swept_at
    while True:
        with ctx.db.session() as session:
            found = stored.in_vain(session, since, BATCH)
        if not found:
            break
        delete(found)
        with ctx.db.write() as session:
            stored.forget(session, [saved.trial_id for saved in found])
    ctx.swept_at = now - LATE


def delete(found: Iterable[Saved]) -> None:
    """Deletes files, as far as they can be reached and are what they should be."""
    for saved in found:
        if not belongs(saved):
            log.info("checkpoint %s is not this trial's own file, so it stays", saved.uri)
            continue
        try:
            fs, path = fsspec.core.url_to_fs(saved.uri)
            if path.endswith(SUFFIX):
                fs.rm_file(path)
            else:
                fs.rm(_folder(fs, path), recursive=True)
        except FileNotFoundError:
            log.debug("checkpoint %s is gone already", saved.uri)
        except Exception as error:  # a file system's driver raises what it likes, or is missing
            log.warning("checkpoint %s was not deleted: %s", saved.uri, error)


def _folder(fs: Any, path: str) -> str:
    """A script's own folder: that of all its trial's attempts, where nothing else lies in it."""
    parent = path.rpartition("/")[0]
    names = [str(entry).rpartition("/")[2] for entry in fs.ls(parent, detail=False)]
    ours = all(re.fullmatch(r"a\d+|lock|trial\.json", name) for name in names)
    return parent if ours else path


def belongs(saved: Saved) -> bool:
    """Whether an address is one that workers give this very trial's checkpoints.

    A worker says where a checkpoint is. It must not be able to have any other file deleted.
    """
    own = rf"/study-{saved.study_id}/trial-{saved.number}/a\d+(-s\d+{re.escape(SUFFIX)})?"
    return ".." not in saved.uri and re.search(own + r"\Z", saved.uri) is not None
