"""What happened: the stream that dashboards follow and auditors read."""

from __future__ import annotations

from tuner.service import cursor as cursors
from tuner.service.context import Context
from tuner.service.views import EventView, Page, event_view
from tuner.storage import events as stored


def events(
    ctx: Context, *, study_id: int | None = None, after: int = 0, limit: int = 500
) -> list[EventView]:
    """Events with a higher id than ``after``, oldest first, of one study or of all."""
    if study_id is not None:
        with ctx.db.session() as session:
            return [event_view(e) for e in stored.of_study(session, study_id, after, limit)]
    last = newest_event(ctx)
    with ctx.db.session() as session:
        return [event_view(e) for e in stored.between(session, after, last, limit)]


def audit(ctx: Context, *, cursor: str | None = None, limit: int = 50) -> Page[EventView]:
    """What was changed, by whom and when, the newest first, a page at a time.

    Raises:
        InvalidInput: The cursor is none of this list.
    """
    first = cursors.read(cursor, [(int,)])
    with ctx.db.session() as session:
        rows = stored.before(session, first[0] if first else None, limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    return Page(
        items=[event_view(event) for event in rows],
        next_cursor=cursors.write([rows[-1].id]) if more else None,
    )


def newest_event(ctx: Context, *, study_id: int | None = None) -> int:
    """The id of the last event; a dashboard that has just drawn everything starts from here."""
    with ctx.db.session() as session:
        return stored.settled(session) if study_id is None else stored.newest(session, study_id)
