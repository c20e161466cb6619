"""The folder of a trial's own checkpoints: one attempt has it at a time, and hands it on.

``study-1/trial-7/a2`` is what the second attempt finds and leaves; it was ``a1`` before. Two runs
never share it: a run's supervisor holds a lock until nothing is left of what the run has started.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

from tuner import folders
from tuner.protocol import Checkpoint, Leased

LOCK = "lock"
OWNER = "trial.json"


class Place:
    """Where a trial's script keeps what it takes to go on.

    Args:
        root: The folder of all checkpoints.
        leased: The trial.
    """

    def __init__(self, root: Path, leased: Leased) -> None:
        self.leased = leased
        self.folder = root.absolute() / folders.of_trial(leased.study_id, leased.number)
        self.own = self.folder / f"a{leased.attempt}"

    def lock(self) -> int | None:
        """The lock as an open file, to be held by the run; None while another run has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return file

    def prepare(self) -> None:
        """Takes over what an earlier attempt left; what another trial left there is removed."""
        leased = self.leased
        owner = self.folder / OWNER
        mine = json.dumps({"task": leased.task, "config": leased.config, "seed": leased.seed})
        if not owner.exists() or owner.read_text(encoding="utf-8") != mine:
            # Ids begin anew with a new database, and folders stay.
            for path in self._attempts().values():
                shutil.rmtree(path)
            owner.write_text(mine, encoding="utf-8")
        earlier = [n for n in self._attempts() if n < leased.attempt]
        if earlier and not self.own.exists():
            (self.folder / f"a{max(earlier)}").rename(self.own)
        self.own.mkdir(exist_ok=True)

    def checkpoint(self, step: int) -> Checkpoint | None:
        """What the script has saved by now, if it has."""
        if not self.own.is_dir() or not any(self.own.iterdir()):
            return None
        return Checkpoint(uri=self.own.as_uri(), step=step)

    def forget(self) -> None:
        """The trial is over: removes everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _attempts(self) -> dict[int, Path]:
        found = {}
        for path in self.folder.glob("a*"):
            if path.is_dir() and path.name[1:].isdecimal():
                found[int(path.name[1:])] = path
        return found
