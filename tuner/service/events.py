"""What happened: the stream that dashboards follow and auditors read."""

from __future__ import annotations

from tuner.service.context import Context
from tuner.service.views import EventView, event_view
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


def newest_event(ctx: Context, *, study_id: int | None = None) -> int:
    """The id of the last event; a dashboard that has just drawn everything starts from here."""
    with ctx.db.session() as session:
        return stored.settled(session) if study_id is None else stored.newest(session, study_id)
