"""What happened: the stream that dashboards follow and auditors read."""

from __future__ import annotations

from tuner.service.context import Context
from tuner.service.views import EventView, event_view
from tuner.storage import events as stored


def events(
    ctx: Context, *, study_id: int | None = None, after: int = 0, limit: int = 500
) -> list[EventView]:
    """Events with a higher id than ``after``, oldest first, of one study or of all."""
    with ctx.db.session() as session:
        return [event_view(e) for e in stored.after(session, after, study_id, limit)]


def newest_event(ctx: Context, *, study_id: int | None = None) -> int:
    """The id of the last event; a dashboard that has just drawn everything starts from here."""
    with ctx.db.session() as session:
        return stored.newest(session, study_id)
