from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import Heard
from benchmarks.service import Figures, Options, grown, measure, table
from tuner import service
from tuner.service import Context

SMALL = Options(
    workers=6,
    slots=2,
    dashboards=2,
    studies=2,
    trials=60,
    sampler="random",
    minutes=0.05,
    bare_seconds=1.0,
    warm_up_seconds=0.5,
    period_seconds=0.25,
    generators=2,
)


def test_both_servers_under_a_small_load(bare_database_url: str, tmp_path: Path) -> None:
    """Real servers, real workers' requests: all answered, all stored, all heard of."""
    bare, ours = measure("any", bare_database_url, SMALL, tmp_path, [])
    assert bare.kinds == ["insert"]
    assert set(ours.kinds) <= {"report", "lease", "heartbeat"}
    assert ours.refused == bare.refused == {}
    assert len(ours.latencies("report")) > 0
    assert ours.cpu_seconds > 0
    assert len(ours.memory) > 1
    promised = sum(heard.promised for heard in ours.heard)
    assert sum(heard.events for heard in ours.heard) > 0
    with closing(Context.open(bare_database_url)) as context:
        with context.db.session() as session:
            count = "SELECT COUNT(*) FROM measurements"
            stored = session.connection().exec_driver_sql(count).scalar()
        studies = service.list_studies(context).items
    assert [study.counts.total <= 60 for study in studies] == [True, True]
    filled = 10 * 2 * (SMALL.trials - SMALL.free)
    assert stored == filled + promised
    lines = table("any", [bare, ours])
    assert sum("| report |" in line for line in lines) == 1


def test_figures_are_what_was_heard() -> None:
    heard = Heard(latencies={"report": [0.001 * i for i in range(1, 101)]}, delays=[0.2, 0.4])
    heard.refused["report 503"] = 3
    one = Figures("tuner", [heard, Heard()], 10.0, 0.5, [100.0, 110.0, 120.0, 120.0, 120.0])
    row = next(line for line in table("any", [one]) if "| report |" in line)
    assert row == "| tuner | report | 10 | 50.5 | 99.0 | 100 | 3 | 5.00 |"
    assert grown([1.0]) == "not watched long enough"
    assert grown([50.0, 60.0, *np.linspace(60, 70, 6)]) == pytest.approx(
        "50, 64, 70 MB; +8.0 MB in the last half"
    )
