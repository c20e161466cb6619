"""What PostgreSQL's planner believes of tables that grow fast.

It takes a table that was all but empty when it last looked for a small one, and keeps what it
planned for that. By itself it looks once a minute, when a new service may have thousands of
trials. What looks trials up by :func:`~tuner.storage.prepared.looked_up` does not depend on it.
"""

from __future__ import annotations

from sqlalchemy import column, func, select, table

from tuner.storage.engine import Database

GROWING = ("events", "measurements", "trials")
FEW = 200
"""Rows of which the plan does not matter."""

_kept = table("pg_stat_user_tables", *map(column, ("relid", "schemaname", "relname", "n_live_tup")))
_known = table("pg_class", *map(column, ("oid", "reltuples")))
_OUTGROWN = (
    select(_kept.c.relname)
    .join(_known, _known.c.oid == _kept.c.relid)
    .where(
        _kept.c.schemaname == func.current_schema(),
        _kept.c.relname.in_(GROWING),
        _kept.c.n_live_tup > FEW,
        _kept.c.n_live_tup > 2 * _known.c.reltuples,
    )
)


def refresh(database: Database) -> list[str]:
    """Has the planner look at the tables that more than doubled since it last did; their names.

    Raises:
        Unavailable: The database cannot be reached.
    """
    if database.embedded:
        return []
    with database.session() as session:
        outgrown = [str(name) for name in session.scalars(_OUTGROWN)]
    for name in outgrown:
        # Where it is locked, another server's look will do, or a vacuum's.
        with database.brief() as direct:
            direct.run(f"ANALYZE (SKIP_LOCKED) {name}")
    return outgrown
