"""How the whole service stands, as its database has it."""

from __future__ import annotations

from tuner.service.context import Context
from tuner.storage import gauges as stored
from tuner.storage.gauges import Gauges


def gauges(ctx: Context) -> Gauges:
    """One reading; every server on the database gives the same.

    Raises:
        Unavailable: The database cannot be reached.
    """
    with ctx.db.session() as session:
        return stored.read(session)
