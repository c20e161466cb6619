"""Events of all studies are read in order, also while several are being stored."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from tuner.storage import events
from tuner.storage.engine import Database
from tuner.storage.events import NewEvent

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def settled(database: Database) -> int:
    with database.session() as session:
        return events.settled(session)


def test_nothing_is_settled_in_an_empty_trail(database: Database) -> None:
    assert settled(database) == 0


def test_events_up_to_the_settled_one_are_read(database: Database) -> None:
    for i in range(3):
        with database.write() as session:
            events.add(session, [NewEvent("k", i, data={"i": i})], None, NOW)
    last = settled(database)
    with database.session() as session:
        read = events.between(session, 0, last, 10)
        assert [e.data["i"] for e in read] == [0, 1, 2]
        assert events.between(session, read[0].id, read[1].id, 10) == [read[1]]
        assert events.between(session, 0, last, 2) == read[:2]
        assert events.newest(session, 1) == read[1].id


@pytest.mark.parametrize("dialect", ["postgresql"])  # SQLite has one writer at a time
def test_a_reader_of_all_waits_for_commits_under_way(database: Database) -> None:
    """A later id may be committed first; who has read it must not miss the earlier one."""
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.append(settled(database)))
    with database.write() as slow:
        events.add(slow, [NewEvent("slow", 1)], None, NOW)
        with database.write() as fast:  # other writers do not wait for each other
            events.add(fast, [NewEvent("fast", 2)], None, NOW)
        reader.start()
        reader.join(timeout=0.5)
        assert reader.is_alive()
        assert seen == []
    reader.join(timeout=30)
    with database.session() as session:
        assert [e.kind for e in events.between(session, 0, seen[0], 10)] == ["slow", "fast"]
