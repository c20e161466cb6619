"""The one list of everything that can be named in a study: optimizers, schedules, tasks, and so on.

A room declares a :class:`Registry` in its ``__init__`` and each file of the room adds one entry
with ``@register``. Packages outside join through an entry point group of the same name, such as
``tuner.optimizers``. The API, the dashboard, the command line and the contract tests all read it.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from tuner.errors import UnknownName

T = TypeVar("T")

log = logging.getLogger(__name__)


class Registry(Generic[T]):
    """Entries by name, loaded on first use.

    Args:
        kind: What an entry is called in messages, such as ``optimizer``.
        package: The room whose modules fill the registry; also the entry point group.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._lock = threading.RLock()
        self._loading = False
        self._loaded = False

    def add(self, name: str, entry: T) -> None:
        """Adds one entry; a name can be taken once."""
        if name in self._entries:
            raise ValueError(f"two {self.kind}s are named {name!r}")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[T], T]:
        """The decorator form of :meth:`add`."""

        def decorate(entry: T) -> T:
            self.add(name, entry)
            return entry

        return decorate

    def get(self, name: str, field: str = "") -> T:
        """The entry of that name; ``field`` is where the name stood, for the message.

        Raises:
            UnknownName: No entry has it; the message lists those there are.
        """
        self._load()
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise UnknownName(self.kind, name, self.names(), field) from None

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def items(self) -> list[tuple[str, T]]:
        """Name and entry, sorted by name."""
        return [(name, self._entries[name]) for name in self.names()]

    def _load(self) -> None:
        if self._loaded:
            return
        # Other threads wait until all is there; the modules imported below may read what is so far.
        with self._lock:
            if not (self._loaded or self._loading):
                self._loading = True
                try:
                    self._import()
                finally:
                    self._loading = False
                self._loaded = True

    def _import(self) -> None:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
        for point in entry_points(group=self.package):
            if point.name in self._entries:
                continue
            try:
                entry = point.load()
            except Exception:  # another package's code, which may raise anything as it is imported
                log.exception("%s %r (%s) is left out", self.kind, point.name, point.value)
                continue
            if point.name not in self._entries:
                self.add(point.name, entry)
