"""A PostgreSQL cluster of the fault tests' own, which may be killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

from tests.databases import _pgserver
from tests.leftovers import prefix
from tuner.storage import migrate
from tuner.storage.engine import parse_url

IDLE = " idle"


class Cluster:
    """One cluster in a folder of its own, with PostgreSQL's own settings: what it commits lasts."""

    def __init__(self) -> None:
        # In /tmp itself, as the server may run as another user and a socket's path must be short.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{prefix('fault-pg')}-"))
        module = _pgserver()
        self._server = module.PostgresServer(self.folder, cleanup_mode=None)
        self._template = f"template_{os.getpid()}"
        self._execute(f"CREATE DATABASE {self._template} TEMPLATE template0")
        migrate.upgrade(self.url.set(database=self._template))

    @property
    def url(self) -> URL:
        return parse_url(make_url(self._server.get_uri()))

    @contextmanager
    def database(self) -> Iterator[str]:
        """A database with all tables and no rows, until the block ends."""
        name = f"faults_{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def kill_transaction(self, rng: random.Random) -> bool:
        """Kills the process of a connection that is in a transaction now, if there is one.

        PostgreSQL then ends all other connections too, and recovers from its log.
        """
        busy = [pid for pid, title in self._children() if "[local]" in title and IDLE not in title]
        if not busy:
            return False
        os.kill(rng.choice(busy), signal.SIGKILL)
        return True

    def crash(self) -> None:
        """Kills every process of the cluster at once, and starts it anew."""
        postmaster = self._pid()
        processes = [postmaster, *(pid for pid, _ in self._children())]
        for pid in processes:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        _gone(processes)
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Ends it and removes its files."""
        try:
            os.kill(self._pid(), signal.SIGINT)  # PostgreSQL's "fast" shutdown
            _gone([self._pid()])
        except (OSError, ValueError):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pid(self) -> int:
        return int((self.folder / "postmaster.pid").read_text().splitlines()[0])

    def _children(self) -> list[tuple[int, str]]:
        """The server's processes, with their titles, which say what each does now."""
        postmaster = self._pid()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                title = (entry / "cmdline").read_text().rstrip("\0 ")
            except (OSError, IndexError, ValueError):
                continue  # it has just ended
            if parent == postmaster:
                found.append((int(entry.name), title))
        return found

    def _execute(self, statement: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()


def _gone(pids: list[int]) -> None:
    for _ in range(2000):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.005)
    raise RuntimeError(f"processes {pids} did not end")
