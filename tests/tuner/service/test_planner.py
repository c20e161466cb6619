"""The database's planner is told of tables that grow."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.installation import until
from tests.tuner.service.simulation import Trainer, submit
from tuner import service
from tuner.service import Context


def believed(ctx: Context) -> float:
    """Trials that the planner counts with; -1: it never looked."""
    with ctx.db.session() as session:
        found = session.scalar(text("SELECT reltuples FROM pg_class WHERE relname = 'trials'"))
    return float(found or 0)


def counted(ctx: Context) -> int:
    """Trials by PostgreSQL's own count, which it keeps a second or more after the commit."""
    with ctx.db.session() as session:
        kept = text("SELECT n_live_tup FROM pg_stat_user_tables WHERE relname = 'trials'")
        return session.scalar(kept) or 0


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)  # SQLite plans by indexes alone
def test_the_planner_looks_at_what_has_outgrown_its_plans(ctx: Context) -> None:
    submit(ctx, budget={"trials": 2000, "epochs": 4})
    Trainer(ctx, slots=300, name="first").lease()
    assert believed(ctx) < 300
    until(lambda: counted(ctx) >= 300, "the first to be counted")
    service.look_ahead(ctx)
    assert believed(ctx) == 300
    Trainer(ctx, slots=200, name="second").lease()
    until(lambda: counted(ctx) >= 500, "the second to be counted")
    service.look_ahead(ctx)
    assert believed(ctx) == 300  # not doubled
    Trainer(ctx, slots=200, name="third").lease()
    until(lambda: counted(ctx) >= 700, "the third to be counted")
    service.look_ahead(ctx)
    assert believed(ctx) == 700
