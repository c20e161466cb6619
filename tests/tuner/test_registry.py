from __future__ import annotations

import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tuner.errors import UnknownName
from tuner.registry import Registry


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose registry takes a while to fill, and reads itself meanwhile."""
    package = tmp_path / "slow_room"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from tuner.registry import Registry\nregistry = Registry('thing', 'slow_room')\n"
    )
    (package / "first.py").write_text(
        textwrap.dedent("""
            import time
            from slow_room import registry
            time.sleep(0.3)
            registry.add("first", 1)
            assert "first" in registry
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "slow_room"
    for name in [n for n in sys.modules if n.startswith("slow_room")]:
        del sys.modules[name]


def test_threads_wait_for_a_registry_that_is_being_filled(room: str) -> None:
    import importlib  # noqa: PLC0415  (the package exists only now)

    registry: Registry[int] = importlib.import_module(room).registry
    found: list[int] = []
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            found.append(registry.get("first"))
        except UnknownName as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert found == [1] * 8


def test_a_name_is_taken_once_and_a_miss_lists_what_there_is(room: str) -> None:
    import importlib  # noqa: PLC0415  (the package exists only now)

    registry: Registry[int] = importlib.import_module(room).registry
    with pytest.raises(UnknownName, match=r"there is no thing named 'second'; known: first"):
        registry.get("second", "field")
    with pytest.raises(ValueError, match="two things"):
        registry.add("first", 2)
    assert registry.items() == [("first", 1)]
