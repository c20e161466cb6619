"""The database's planner is told of tables that grow."""

from __future__ import annotations

import time

from sqlalchemy import text

from tests.tuner.service.simulation import Trainer, submit
from tuner import service
from tuner.service import Context


def believed(ctx: Context) -> float:
    """Trials that the planner counts with; -1: it never looked."""
    with ctx.db.session() as session:
        found = session.scalar(text("SELECT reltuples FROM pg_class WHERE relname = 'trials'"))
    return float(found or 0)


def look(ctx: Context, enough: float) -> float:
    """What it believes after some rounds: PostgreSQL counts rows a second after the commit."""
    for _ in range(100):
        service.look_ahead(ctx)
        if ctx.db.embedded or believed(ctx) >= enough:
            break
        time.sleep(0.1)
    return 0.0 if ctx.db.embedded else believed(ctx)


def test_the_planner_looks_at_what_has_outgrown_its_plans(ctx: Context) -> None:
    submit(ctx, budget={"trials": 2000, "epochs": 4})
    Trainer(ctx, slots=300, name="first").lease()
    if ctx.db.embedded:  # SQLite plans by its indexes alone
        assert look(ctx, 300) == 0.0
        return
    assert believed(ctx) < 300
    assert look(ctx, 300) == 300
    Trainer(ctx, slots=200, name="second").lease()
    time.sleep(1.5)
    assert look(ctx, 300) == 300  # not doubled
    Trainer(ctx, slots=200, name="third").lease()
    assert look(ctx, 700) == 700
